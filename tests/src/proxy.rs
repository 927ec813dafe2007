//! A network between a node and its database, or a provider, that can be cut and frozen.

use std::{
    future::pending,
    net::SocketAddr,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use socket2::{SockRef, Socket};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    time::sleep,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// What the kernel keeps where the way is slow.
const LITTLE_BYTES: u32 = 32 << 10;
/// How often something is passed on there.
const STEPS_A_SECOND: usize = 50;

/// Passes everything on until told otherwise. Its connections end when it is dropped.
pub struct Proxy {
    pub address: SocketAddr,
    controls: Arc<Controls>,
    ended: CancellationToken,
}

#[derive(Default)]
struct Controls {
    /// The next bytes that come back from the server are lost, and their connection with them.
    cut_next_reply: AtomicBool,
    /// So many bytes more, less one, go to the server; 0 means no limit.
    freeze_after: AtomicUsize,
    /// No byte gets through, on connections old and new.
    all_frozen: AtomicBool,
    /// Of what comes back, in a second; 0 means no limit.
    pace: AtomicUsize,
    /// Since the last question.
    bytes_sent: AtomicUsize,
    /// To clients, those that are open among them.
    connections: Mutex<Vec<Weak<Socket>>>,
}

impl Proxy {
    pub async fn start(server: SocketAddr) -> Self {
        Self::with(server, Controls::default()).await
    }

    /// A way back that takes so many bytes a second, and keeps next to nothing that it cannot pass on yet.
    pub async fn slow(server: SocketAddr, bytes_per_second: usize) -> Self {
        Self::with(server, Controls { pace: bytes_per_second.into(), ..Controls::default() }).await
    }

    async fn with(server: SocketAddr, controls: Controls) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (controls, ended, tracker) = (Arc::new(controls), CancellationToken::new(), TaskTracker::new());
        let accept = {
            let (controls, ended, tracker) = (controls.clone(), ended.clone(), tracker.clone());
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    let to_server = TcpSocket::new_v4().unwrap();
                    if controls.pace.load(Ordering::SeqCst) > 0 {
                        to_server.set_recv_buffer_size(LITTLE_BYTES).unwrap();
                    }
                    let server = to_server.connect(server).await.unwrap();
                    let passing = pass(client, server, controls.clone());
                    tracker.spawn(ended.clone().run_until_cancelled_owned(passing));
                }
            }
        };
        tracker.spawn(ended.clone().run_until_cancelled_owned(accept));
        Self { address, controls, ended }
    }

    /// The server gets the next call and works on it, its answer never arrives, and the connection is cut.
    pub fn cut_next_reply(&self) {
        self.controls.cut_next_reply.store(true, Ordering::SeqCst);
    }

    /// The connection that sends the next bytes freezes when `bytes` of them have gone to the server. It stays open.
    /// Other connections go on.
    pub fn freeze_after(&self, bytes: usize) {
        self.controls.freeze_after.store(bytes + 1, Ordering::SeqCst);
    }

    /// Nothing gets through any more, until [`Self::thaw`]: connections are taken, and stay as they are for good.
    pub fn freeze_all(&self) {
        self.controls.all_frozen.store(true, Ordering::SeqCst);
    }

    pub fn thaw(&self) {
        self.controls.all_frozen.store(false, Ordering::SeqCst);
    }

    /// What comes for the connections that are open is dropped before anybody hears of it, as something between would that has
    /// forgotten them: nothing of it is acknowledged, and no end is told. Connections that are made later work. How many there were.
    #[cfg(target_os = "linux")]
    pub fn forget_connections(&self) -> usize {
        /// From `linux/bpf_common.h`: return the constant, the length that is left of a packet.
        const BPF_RET: u16 = 0x06;
        const DROP: socket2::SockFilter = socket2::SockFilter::new(BPF_RET, 0, 0, 0);
        let connections = std::mem::take(&mut *self.controls.connections.lock().unwrap());
        let open: Vec<_> = connections.iter().filter_map(Weak::upgrade).collect();
        for connection in &open {
            connection.attach_filter(&[DROP]).unwrap();
        }
        open.len()
    }

    /// How many bytes went to the server since the last time.
    pub fn take_bytes_sent(&self) -> usize {
        self.controls.bytes_sent.swap(0, Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.ended.cancel();
    }
}

async fn pass(client: TcpStream, server: TcpStream, controls: Arc<Controls>) {
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    let known = Arc::new(SockRef::from(&client).try_clone().unwrap());
    controls.connections.lock().unwrap().push(Arc::downgrade(&known));
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let forth = async {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(read @ 1..) = from_client.read(&mut buffer).await {
            if controls.all_frozen.load(Ordering::SeqCst) {
                return true;
            }
            let limit = controls.freeze_after.load(Ordering::SeqCst);
            let passes = if limit == 0 { read } else { read.min(limit - 1) };
            if to_server.write_all(&buffer[..passes]).await.is_err() {
                break;
            }
            controls.bytes_sent.fetch_add(passes, Ordering::SeqCst);
            if limit != 0 && read >= limit {
                controls.freeze_after.store(0, Ordering::SeqCst);
                return true;
            }
            if limit != 0 {
                controls.freeze_after.store(limit - passes, Ordering::SeqCst);
            }
        }
        false
    };
    let back = async {
        let pace = controls.pace.load(Ordering::SeqCst);
        let mut buffer = vec![0; if pace > 0 { pace / STEPS_A_SECOND } else { 64 << 10 }];
        while let Ok(read @ 1..) = from_server.read(&mut buffer).await {
            if controls.cut_next_reply.swap(false, Ordering::SeqCst)
                || to_client.write_all(&buffer[..read]).await.is_err()
            {
                break;
            }
            if pace > 0 {
                sleep(Duration::from_secs(1) / u32::try_from(STEPS_A_SECOND).unwrap()).await;
            }
        }
    };
    tokio::select! {
        is_frozen = forth => if is_frozen {
            // Both sockets stay open, and nothing moves any more.
            pending::<()>().await;
        },
        () = back => {}
    }
}
