//! How much the service takes when it is asked for all it can, and what of the machine that costs.

use std::time::Duration;

use crate::{
    client::{CHUNKS, Client},
    load::{Caller, Cell, closed_loop, ms, us},
    processes::Bench,
    usage::{Cpu, load_average, memory_mb},
};

pub const CALLERS: usize = 64;
pub const WARM_UP: Duration = Duration::from_secs(1);
const ROUNDS: usize = 3;

/// What one cell came to.
struct Measured {
    cell: Cell,
    /// Until every subscription had applied what the cell put into the log.
    cpu: Cpu,
    behind_events: i64,
    caught_up: Duration,
    load: String,
}

pub async fn section(bench: &Bench, time: Duration) {
    println!("\n{CALLERS} callers, each asks again as soon as it has its answer. CPU in µs an answer.\n");
    println!(
        "| answers | /s | goal | p50 ms | p99 ms | first chunk p50 / p99 ms | CPU: service | PostgreSQL | providers | clients | behind, caught up | memory MB | load |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|---|");
    let mut best = [Duration::MAX; 2];
    for (index, (stream, name, goal)) in
        [(false, "whole", 6_000), (true, "streamed, 50 chunks", 1_400)].into_iter().enumerate()
    {
        for _ in 0..ROUNDS {
            let measured = measure(bench, stream, time).await;
            let Measured { cell, cpu, behind_events, caught_up, load } = &measured;
            let each = |of: Duration| us(of) / cell.answers();
            println!(
                "| {name} | {:.0} | {goal} | {:.1} | {:.1} | {:.1} / {:.1} | {:.0} | {:.0} | {:.0} | {:.0} | {behind_events} events, {:.1} s | {:.0} | {load} |",
                cell.rate(),
                ms(cell.total(0.5)),
                ms(cell.total(0.99)),
                ms(cell.first_chunk(0.5)),
                ms(cell.first_chunk(0.99)),
                each(cpu.service),
                each(cpu.postgres),
                each(cpu.providers),
                each(cpu.clients),
                caught_up.as_secs_f64(),
                memory_mb(bench.service.id).1,
            );
            best[index] = best[index].min(cpu.service.div_f64(cell.answers()));
        }
    }
    let [whole, streamed] = best.map(us);
    let chunk = (streamed - whole) / CHUNKS as f64;
    println!("\nThe service's CPU: {whole:.0} µs an answer (goal: 100), {chunk:.1} µs a chunk (goal: 10).");
}

async fn measure(bench: &Bench, stream: bool, time: Duration) -> Measured {
    let mut callers = Vec::new();
    for caller in 0..CALLERS {
        callers.push(Caller::Gateway(Client::connect(bench, caller, "bench-50", stream).await.into()));
    }
    closed_loop(&mut callers, WARM_UP).await;
    catch_up(bench).await;
    let before = Cpu::now(bench);
    let cell = closed_loop(&mut callers, time).await;
    let load = load_average();
    let behind_events = bench.behind().await;
    let started = std::time::Instant::now();
    catch_up(bench).await;
    let caught_up = started.elapsed();
    Measured { cell, cpu: Cpu::now(bench).since(before), behind_events, caught_up, load }
}

pub async fn catch_up(bench: &Bench) {
    while bench.behind().await > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
