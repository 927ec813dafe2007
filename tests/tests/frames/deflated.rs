//! Compressed messages, for who offers them. That others' compressors are understood is seen in `tests/clients.rs`.

use std::{convert::Infallible, sync::Arc};

use aihub::ws::wire::deflate::{Deflater, inflate};
use aihub_application::shares::Holder;
use aihub_tests::{app::TestApp, client::upgrade};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    sync::Semaphore,
};

const MOST: usize = 64 << 20;

/// A socket as bytes.
struct Raw {
    connection: BufReader<TcpStream>,
    deflater: Deflater,
    /// What the service answered to the offer.
    accepted: Option<String>,
}

/// A message, or how the socket ended.
#[derive(Debug)]
enum Heard {
    Text { is_deflated: bool, bytes: usize, frame: Value },
    Closed(u16),
}

impl Raw {
    async fn connect(app: &TestApp, offer: Option<&str>) -> Self {
        let request = upgrade(app.address, &app.token("ann"));
        let mut head = vec![format!("GET {} HTTP/1.1", request.uri().path())];
        head.extend(request.headers().iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())));
        head.extend(offer.map(|offer| format!("sec-websocket-extensions: {offer}")));
        let mut connection = BufReader::new(TcpStream::connect(app.address).await.unwrap());
        connection.write_all(format!("{}\r\n\r\n", head.join("\r\n")).as_bytes()).await.unwrap();
        let mut accepted = None;
        loop {
            let mut line = String::new();
            connection.read_line(&mut line).await.unwrap();
            if let Some(value) = line.to_lowercase().strip_prefix("sec-websocket-extensions: ") {
                accepted = Some(value.trim().to_owned());
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let mut raw = Self { connection, deflater: Deflater::new(Arc::new(Semaphore::new(1))), accepted };
        let ready = raw.next().await;
        assert!(matches!(&ready, Heard::Text { frame, .. } if frame["type"] == "ready"), "{ready:?}");
        raw
    }

    /// With a mask of nothing.
    async fn send(&mut self, first_byte: u8, payload: &[u8]) {
        let length = u64::try_from(payload.len()).unwrap().to_be_bytes();
        let frame = [&[first_byte, 0xff][..], &length, &[0; 4], payload].concat();
        self.connection.write_all(&frame).await.unwrap();
    }

    async fn send_deflated(&mut self, text: &str) {
        assert!(self.deflater.begins(text.as_bytes(), true));
        let payload = self.deflater.piece(text.as_bytes(), true).unwrap();
        self.send(0xc1, &payload).await;
    }

    async fn next(&mut self) -> Heard {
        let (mut message, mut is_deflated) = (Vec::new(), false);
        loop {
            let mut head = [0; 2];
            self.connection.read_exact(&mut head).await.unwrap();
            let length = match head[1] {
                126 => u64::from(self.connection.read_u16().await.unwrap()),
                127 => self.connection.read_u64().await.unwrap(),
                length => length.into(),
            };
            let mut payload = vec![0; usize::try_from(length).unwrap()];
            self.connection.read_exact(&mut payload).await.unwrap();
            match head[0] & 0xf {
                8 => return Heard::Closed(u16::from_be_bytes([payload[0], payload[1]])),
                9 => continue,
                1 => is_deflated = head[0] & 0x40 != 0,
                _ => assert_eq!(head[0] & 0x40, 0, "only the first frame of a message says so"),
            }
            message.extend(payload);
            if head[0] & 0x80 != 0 {
                let bytes = message.len();
                if is_deflated {
                    message = inflate(&message, MOST, |_| Ok::<_, Infallible>(())).unwrap();
                }
                return Heard::Text { is_deflated, bytes, frame: serde_json::from_slice(&message).unwrap() };
            }
        }
    }
}

fn embedding(inputs: usize, more: &str) -> String {
    let inputs: Vec<String> = (0..inputs).map(|nth| format!("text {nth}{more}")).collect();
    json!({ "id": "e", "type": "embedding", "model": "text-embedding-3-small", "input": inputs, "stream": false })
        .to_string()
}

#[tokio::test]
async fn who_offers_it_may_send_compressed_messages_and_gets_long_ones_so_and_short_ones_as_they_are() {
    let app = TestApp::start(|_| ()).await;
    let mut plain = Raw::connect(&app, None).await;
    assert_eq!(plain.accepted, None);
    plain.send(0x81, embedding(150, "").as_bytes()).await;
    let Heard::Text { is_deflated: false, bytes: whole, frame } = plain.next().await else {
        panic!("it is compressed")
    };
    let expected = frame["data"].clone();
    assert_eq!(expected.as_array().unwrap().len(), 150);

    let mut raw = Raw::connect(&app, Some("permessage-deflate; client_max_window_bits")).await;
    let accepted = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
    assert_eq!(raw.accepted.as_deref(), Some(accepted));
    // Twice: each message is by itself. The second one is read aside.
    for more in ["", &" ".repeat(4_000)] {
        raw.send_deflated(&embedding(150, more)).await;
        let Heard::Text { is_deflated: true, bytes, frame } = raw.next().await else { panic!("it is not compressed") };
        assert!(bytes < whole * 3 / 4, "{bytes} of {whole}");
        assert_eq!(frame["data"].as_array().unwrap().len(), 150);
        assert!(!more.is_empty() || frame["data"] == expected);
    }
    raw.send(0x81, br#"{"type":"ping"}"#).await;
    let pong = raw.next().await;
    assert!(matches!(&pong, Heard::Text { is_deflated: false, frame, .. } if frame["type"] == "pong"), "{pong:?}");
    app.stop().await;
}

#[tokio::test]
async fn what_is_compressed_wrongly_beyond_the_limit_or_without_leave_ends_its_socket() {
    let app = TestApp::start(|config| config.server.max_frame_bytes = 1 << 20).await;
    let offer = Some("permessage-deflate");
    let mut bomb = Raw::connect(&app, offer).await;
    bomb.send_deflated(&" ".repeat((1 << 20) + 1)).await;
    assert!(matches!(bomb.next().await, Heard::Closed(1009)));
    for (offer, first_byte, payload) in [
        (offer, 0xc1, &[0xff; 20][..]),
        // Nobody asked, it goes on with nothing, and it is no message.
        (None, 0xc1, b"x"),
        (offer, 0xc0, b"x"),
        (offer, 0xc9, b"x"),
        (offer, 0xa1, b"x"),
    ] {
        let mut raw = Raw::connect(&app, offer).await;
        raw.send(first_byte, payload).await;
        let heard = raw.next().await;
        assert!(matches!(heard, Heard::Closed(1002)), "{first_byte:x}: {heard:?}");
    }
    app.stop().await;
}

#[tokio::test]
async fn what_comes_out_of_a_compressed_message_counts_among_its_users_bytes() {
    let app = TestApp::start(|config| config.limits.per_user.bytes_per_minute = 1_000_000.try_into().unwrap()).await;
    let mut raw = Raw::connect(&app, Some("permessage-deflate")).await;
    for _ in 0..2 {
        raw.send_deflated(&format!(r#"{{"id":"a","type":"dance","x":"{}"}}"#, " ".repeat(600_000))).await;
    }
    let (first, second) = (raw.next().await, raw.next().await);
    assert!(matches!(&first, Heard::Text { frame, .. } if frame["error"]["code"] == "VALIDATION_ERROR"), "{first:?}");
    assert!(
        matches!(&second, Heard::Text { frame, .. } if frame["error"]["code"] == "RATE_LIMIT_EXCEEDED"),
        "{second:?}"
    );
    app.stop().await;
}

#[tokio::test]
async fn where_there_is_no_memory_for_a_compressed_message_its_refusal_names_it() {
    let app = TestApp::start(|_| ()).await;
    let mut raw = Raw::connect(&app, Some("permessage-deflate")).await;
    let asked = &app.hub.gateway.asked;
    let ann = Holder::Principal { user: "ann".to_owned(), account: "ann".to_owned() };
    let _rest = asked.take(ann, asked.portions().of_user - 1_000).unwrap();
    let noise: String =
        (0..200_000_u32).map(|nth| char::from(b'a' + (nth.wrapping_mul(2_654_435_761) >> 27) as u8)).collect();
    raw.send_deflated(&json!({ "id": "long", "prompt": noise, "type": "completion" }).to_string()).await;
    let heard = raw.next().await;
    let Heard::Text { frame, .. } = &heard else { panic!("{heard:?}") };
    assert_eq!((&frame["id"], &frame["error"]["code"]), (&json!("long"), &json!("RATE_LIMIT_EXCEEDED")), "{frame}");
    assert_eq!(frame["error"]["details"]["what"], "bytes of requests at work");
    app.stop().await;
}
