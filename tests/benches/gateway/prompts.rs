//! What prompts cost that are as long as an agent's: nearly all of each was sent before.

use std::time::Duration;

use crate::{
    client::Client,
    load::{Caller, closed_loop, ms, us},
    processes::Bench,
    throughput::{CALLERS, WARM_UP, catch_up},
    usage::{Cpu, load_average},
};

const PROMPTS: [usize; 4] = [0, 20_000, 50_000, 120_000];

pub async fn section(bench: &Bench, time: Duration) {
    println!(
        "\n{CALLERS} callers, whole answers, with a conversation in front of each question. CPU in µs, WAL in kB an answer.\n"
    );
    println!("| conversation | /s | p50 ms | p99 ms | CPU: service | PostgreSQL | WAL | load |");
    println!("|---|---|---|---|---|---|---|---|");
    for bytes in PROMPTS {
        let mut callers = Vec::new();
        for caller in 0..CALLERS {
            let client = Client::connect(bench, caller, "bench-50", false).await.after(caller, bytes);
            callers.push(Caller::Gateway(client.into()));
        }
        closed_loop(&mut callers, WARM_UP).await;
        catch_up(bench).await;
        let (before, wal) = (Cpu::now(bench), wal(bench).await);
        let cell = closed_loop(&mut callers, time).await;
        catch_up(bench).await;
        let (cpu, wal) = (Cpu::now(bench).since(before), self::wal(bench).await - wal);
        println!(
            "| {} kB | {:.0} | {:.1} | {:.1} | {:.0} | {:.0} | {:.1} | {} |",
            bytes / 1_000,
            cell.rate(),
            ms(cell.total(0.5)),
            ms(cell.total(0.99)),
            us(cpu.service) / cell.answers(),
            us(cpu.postgres) / cell.answers(),
            wal / 1e3 / cell.answers(),
            load_average(),
        );
    }
}

/// Bytes of the write-ahead log so far.
async fn wal(bench: &Bench) -> f64 {
    let query = "SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::float8";
    sqlx::query_scalar(query).fetch_one(&bench.pool).await.unwrap()
}
