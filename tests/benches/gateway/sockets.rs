//! A thousand sockets, each running a stream.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::join_all;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::{
    client::Client,
    load::{ms, percentile},
    processes::Bench,
    usage::{load_average, memory_mb},
};

const SOCKETS: usize = 1_000;
/// So many are on their way at a time.
const CONNECTING: usize = 64;

pub async fn section(bench: &Bench) {
    println!("\n{SOCKETS} sockets, each with a stream of 50 chunks at 10 a second, all of them at the same time.\n");
    println!(
        "| requests begin | connect p50 / p99 ms | goal | first chunk p50 / p99 ms | goal | lost | goal | memory most / now MB | goal | load |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for (name, spread) in
        [("over 2 s", Duration::from_secs(2)), ("over 1 s", Duration::from_secs(1)), ("all at once", Duration::ZERO)]
    {
        let (sockets, connects) = connect(bench).await;
        let tracker = TaskTracker::new();
        let asked = sockets.into_iter().enumerate().map(|(index, mut socket)| {
            let after = spread / u32::try_from(SOCKETS).unwrap() * u32::try_from(index).unwrap();
            tracker.spawn(async move {
                tokio::time::sleep(after).await;
                socket.ask().await.first_chunk
            })
        });
        let asked = join_all(asked.collect::<Vec<_>>()).await;
        let first_chunks: Vec<_> = asked.iter().filter_map(|asked| asked.as_ref().ok().copied()).collect();
        let (most, now) = memory_mb(bench.service.id);
        println!(
            "| {name} | {:.1} / {:.1} | 100 | {:.1} / {:.1} | 200 | {} | 0 | {most:.0} / {now:.0} | 200 | {} |",
            ms(percentile(connects.iter().copied(), 0.5)),
            ms(percentile(connects.iter().copied(), 0.99)),
            ms(percentile(first_chunks.iter().copied(), 0.5)),
            ms(percentile(first_chunks.iter().copied(), 0.99)),
            SOCKETS - first_chunks.len(),
            load_average()
        );
    }
}

/// The sockets, and how long each took from its first packet to `ready`.
async fn connect(bench: &Bench) -> (Vec<Client>, Vec<Duration>) {
    let places = Arc::new(Semaphore::new(CONNECTING));
    let connecting = (0..SOCKETS).map(|caller| {
        let places = places.clone();
        async move {
            let _place = places.acquire().await.unwrap();
            let started = Instant::now();
            let client = Client::connect(bench, caller, "bench-50-slow", true).await;
            (client, started.elapsed())
        }
    });
    join_all(connecting).await.into_iter().unzip()
}
