use aihub_application::shares::Portions;
use tokio::io::{AsyncWriteExt, DuplexStream, duplex};
use tokio_tungstenite::tungstenite::protocol::frame::coding::OpCode::{Control as Ctl, Data as Dat};

use super::*;
use crate::routes::LEAST_BYTES_PER_S;

const MAX: usize = 1 << 20;

struct Socket {
    client: DuplexStream,
    reader: Reader<DuplexStream>,
    share: Arc<Share>,
    holder: Holder,
}

/// A frame as a client sends it.
fn frame(opcode: OpCode, payload: &[u8], is_final: bool) -> Vec<u8> {
    let mask = [7, 77, 177, 0];
    let header = FrameHeader { is_final, opcode, mask: Some(mask), ..FrameHeader::default() };
    let mut frame = Vec::new();
    header.format(payload.len() as u64, &mut frame).unwrap();
    let masked: Vec<u8> = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
    frame.extend(masked);
    frame
}

fn text(payload: &str) -> Vec<u8> {
    frame(Dat(Data::Text), payload.as_bytes(), true)
}

impl Socket {
    fn new(memory: usize) -> Self {
        let (client, server) = duplex(4 << 20);
        let share = Share::new("bytes", Portions::of(memory));
        let holder = Holder::Principal { user: "ann".into(), account: "ann".into() };
        Self { client, reader: Reader::new(server, &[], MAX, false, Arc::default()), share, holder }
    }

    async fn next(&mut self) -> Result<Incoming, Broken> {
        self.reader.next(Memory { share: &self.share, holder: &self.holder }).await
    }

    /// What is read while `bytes` are sent.
    async fn sent(&mut self, bytes: &[u8]) -> Result<Incoming, Broken> {
        let Self { client, reader, share, holder } = self;
        let read = reader.next(Memory { share, holder });
        let (_, read) = tokio::join!(client.write_all(bytes), read);
        read
    }
}

fn said(incoming: Result<Incoming, Broken>) -> (String, bool) {
    match incoming {
        Ok(Incoming::Message(Message { bytes, held, .. })) => (String::from_utf8(bytes).unwrap(), held.is_some()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_message_is_what_its_frames_say_however_they_are_cut() {
    let long = "über".repeat(60_000);
    let mut bytes = frame(Dat(Data::Text), &long.as_bytes()[..100_001], false);
    bytes.extend(frame(Ctl(Control::Ping), b"p", true));
    bytes.extend(frame(Dat(Data::Continue), &[], false));
    bytes.extend(frame(Dat(Data::Continue), &long.as_bytes()[100_001..], true));
    bytes.extend(text("short"));
    for piece in [1, 3, 1_000, bytes.len()] {
        let mut socket = Socket::new(64 << 20);
        let (mut client, share) = (std::mem::replace(&mut socket.client, duplex(1).0), socket.share.clone());
        let send = async {
            for piece in bytes.chunks(piece) {
                client.write_all(piece).await.unwrap();
            }
        };
        let read = async {
            assert!(matches!(socket.next().await, Ok(Incoming::Ping(payload)) if payload == b"p"));
            let (message, is_held) = said(socket.next().await);
            assert!(message == long && is_held);
            assert_eq!(said(socket.next().await), ("short".to_owned(), false));
        };
        tokio::join!(send, read);
        assert_eq!(share.taken(), 0);
    }
}

#[tokio::test]
async fn a_message_counts_from_its_first_byte_and_is_read_over_where_there_is_no_memory() {
    let mut socket = Socket::new(1 << 20);
    let whole = text(&"x".repeat(900_000));
    socket.client.write_all(&whole[..50_000]).await.unwrap();
    let waited = tokio::time::timeout(Duration::from_millis(20), socket.next()).await;
    assert!(waited.is_err(), "it is not whole");
    assert!((50_000..=132_000).contains(&socket.share.taken()), "{}", socket.share.taken());
    let refused = socket.sent(&whole[50_000..600_000]).await;
    assert!(matches!(&refused, Ok(Incoming::NoMemory(_, came)) if came.bytes.starts_with(b"xxx")), "{refused:?}");
    assert_eq!(socket.share.taken(), 0);
    let rest = [&whole[600_000..], &text("and on")].concat();
    assert_eq!(said(socket.sent(&rest).await).0, "and on");
}

#[tokio::test(start_paused = true)]
async fn a_message_may_be_slow_but_not_stand_still_and_pings_give_it_no_more_time() {
    let mut socket = Socket::new(64 << 20);
    let whole = text(&"x".repeat(900_000));
    let Socket { client, reader, share, holder } = &mut socket;
    let slow = async {
        for piece in whole.chunks(LEAST_BYTES_PER_S) {
            client.write_all(piece).await.unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let ((), message) = tokio::join!(slow, reader.next(Memory { share, holder }));
    assert_eq!(said(message).0.len(), 900_000);

    tokio::time::sleep(Duration::from_hours(1)).await;
    let started = Instant::now();
    let Socket { client, reader, share, holder } = &mut socket;
    let half = async {
        client.write_all(&whole[..10_000]).await.unwrap();
        loop {
            tokio::time::sleep(Duration::from_secs(3)).await;
            client.write_all(&frame(Ctl(Control::Ping), b"", true)).await.unwrap();
        }
    };
    // A ping cannot stand inside of a frame; to whoever reads it, it is a part of it.
    let read = async {
        loop {
            if let Err(broken) = reader.next(Memory { share, holder }).await {
                return broken;
            }
        }
    };
    let broken = tokio::select! {
        broken = read => broken,
        () = half => unreachable!(),
    };
    assert_eq!(broken, Broken::TooSlow);
    assert!(started.elapsed() < Duration::from_secs(12), "{:?}", started.elapsed());

    let mut socket = Socket::new(64 << 20);
    socket.client.write_all(&frame(Dat(Data::Text), b"half", false)).await.unwrap();
    let started = Instant::now();
    let Socket { client, reader, share, holder } = &mut socket;
    let pings = async {
        loop {
            tokio::time::sleep(Duration::from_secs(3)).await;
            client.write_all(&frame(Ctl(Control::Ping), b"", true)).await.unwrap();
        }
    };
    let read = async {
        loop {
            match reader.next(Memory { share, holder }).await {
                Ok(Incoming::Ping(_)) => {}
                other => return other,
            }
        }
    };
    tokio::select! {
        read = read => assert!(matches!(read, Err(Broken::TooSlow)), "{read:?}"),
        () = pings => unreachable!(),
    }
    assert!(started.elapsed() < Duration::from_secs(12), "{:?}", started.elapsed());
}

#[tokio::test]
async fn what_breaks_the_protocol_is_named_and_what_is_too_long_is_not_read() {
    let mut unmasked = text("x");
    unmasked[1] &= 0x7f;
    let mut reserved = text("x");
    reserved[0] |= 0x40;
    let half = frame(Dat(Data::Text), b"x", false);
    for bytes in [
        unmasked,
        reserved,
        frame(Dat(Data::Continue), b"x", true),
        [&half[..], &text("y")].concat(),
        frame(Ctl(Control::Ping), &[0; 126], true),
        frame(Ctl(Control::Ping), b"x", false),
        vec![0x83, 0x80, 0, 0, 0, 0],
    ] {
        let broken = Socket::new(64 << 20).sent(&bytes).await;
        assert!(matches!(broken, Err(Broken::Protocol(_))), "{broken:?}");
    }
    let part = frame(Dat(Data::Continue), &vec![0; MAX], true);
    for bytes in [text(&"x".repeat(MAX + 1))[..14].to_vec(), [&half[..], &part[..14]].concat()] {
        assert!(matches!(Socket::new(64 << 20).sent(&bytes).await, Err(Broken::TooLong)));
    }
    assert_eq!(said(Socket::new(64 << 20).sent(&text(&"x".repeat(MAX))).await).0.len(), MAX);
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_was_waited_for_in_vain_stays_its_own_however_often_it_is_asked_again() {
    let mut socket = Socket::new(4 << 20);
    let said_text = "x".repeat(600_000);
    let frame = text(&said_text);
    socket.client.write_all(&frame[..400_000]).await.unwrap();
    let mut due = Vec::new();
    for _ in 0..10 {
        tokio::time::timeout(Duration::from_millis(1), socket.next()).await.unwrap_err();
        due.push(socket.reader.turn.as_ref().expect("it is long").due);
    }
    assert!(due.iter().all(|other| *other == due[0]), "{due:?}");
    assert_eq!(said(socket.sent(&frame[400_000..]).await), (said_text, true));
}
