//! Random bytes: the service survives them, and other sockets do not notice.

use aihub_tests::{
    PATIENCE,
    app::TestApp,
    client::{Client, chat},
    until,
};
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

const SOCKETS: u64 = 120;
/// In a frame's second byte, before its length; 126 and 127 say that the length follows.
const MASKED: u8 = 0x80;

/// A WebSocket whose bytes are ours, upgraded by hand.
async fn upgraded(app: &TestApp) -> TcpStream {
    let mut stream = TcpStream::connect(app.address).await.unwrap();
    let upgrade = format!(
        "GET /mcp HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAuthorization: Bearer {}\r\n\r\n",
        app.address,
        app.token("noise"),
    );
    stream.write_all(upgrade.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(timeout(PATIENCE, stream.read_u8()).await.unwrap().unwrap());
    }
    assert!(answer.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&answer));
    stream
}

fn bytes(random: &mut StdRng, most: usize) -> Vec<u8> {
    let mut bytes = vec![0; random.random_range(0..most)];
    random.fill_bytes(&mut bytes);
    bytes
}

/// A frame of a client: masked, with a mask of zeros.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first, MASKED | 0x7e];
    frame.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

/// What a client would say, with some of its bytes changed.
fn mutated(random: &mut StdRng) -> Vec<u8> {
    let mut bytes = chat("a", "Why is the sky blue? Übermäßig viel Himmel.").to_string().into_bytes();
    for _ in 0..random.random_range(1..8) {
        let at = random.random_range(0..bytes.len());
        match random.random_range(0..3) {
            0 => bytes[at] = random.random(),
            1 => drop(bytes.remove(at)),
            _ => bytes.insert(at, b"\"{}[]:,0e-\\u"[random.random_range(0..12)]),
        }
    }
    bytes
}

fn noise(kind: u64, random: &mut StdRng) -> Vec<u8> {
    const TEXT: u8 = 0x81;
    match kind {
        0 => bytes(random, 2_000),
        1 => frame(TEXT, &bytes(random, 2_000)),
        2 => (0..20).flat_map(|_| frame(TEXT, &mutated(random))).collect(),
        // Torn in the middle of a frame.
        3 => {
            let whole = frame(TEXT, &mutated(random));
            whole[..random.random_range(0..whole.len())].to_vec()
        }
        // Announces more than there is memory.
        4 => [&[TEXT, MASKED | 0x7f][..], &(u64::MAX >> 1).to_be_bytes(), &bytes(random, 100)].concat(),
        // Any opcode, reserved bits, fragments of nothing, control frames that are too long.
        _ => (0..20).flat_map(|_| frame(random.random(), &bytes(random, 300))).collect(),
    }
}

/// Asks until it is `enough`, and is answered each time.
async fn ask_on(mut client: Client, enough: CancellationToken) -> u32 {
    let mut answers = 0;
    while !enough.is_cancelled() {
        client.ask(&chat("a", "Why is the sky blue?")).await.done();
        answers += 1;
    }
    answers
}

#[tokio::test]
async fn random_bytes_end_at_most_their_own_socket() {
    let app = TestApp::start(|_| ()).await;
    let enough = CancellationToken::new();
    let neighbour = ask_on(app.connect("ann").await, enough.clone());
    let noisy = async {
        for seed in 0..SOCKETS {
            let mut random = StdRng::seed_from_u64(seed);
            let mut stream = upgraded(&app).await;
            let noise = noise(seed % 6, &mut random);
            // The service may have hung up already.
            let _ = stream.write_all(&noise).await;
            if seed % 4 > 0 {
                let _ = stream.shutdown().await;
                let mut rest = Vec::new();
                let read = timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
                assert!(read.is_ok(), "seed {seed}: the service holds on to a socket that has ended");
            }
        }
        enough.cancel();
    };
    let (answers, ()) = tokio::join!(neighbour, noisy);
    assert!(answers > 0);
    until("all sockets are gone", async || app.hub.sessions.is_empty().then_some(())).await;
    assert_eq!(app.get("/health/live", None).await.0, 200);
    app.connect("ann").await.ask(&chat("a", "Why is the sky blue?")).await.done();
    app.stop().await;
}
