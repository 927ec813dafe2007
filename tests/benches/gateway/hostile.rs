//! What fifty who mean harm cost ten who do not: the time to the first chunk without them and with them. Callers and providers are on
//! other machines than the service, as a rule: here the service and its database have the first processor, and the others the rest.

use std::{future::pending, path::Path, process::Stdio, time::Duration};

use aihub_tests::crowd::{Crowd, Harm};
use tokio::process::Command;

use crate::{
    client::Client,
    load::{Caller, closed_loop, ms, one_after_another},
    processes::{Bench, auth},
    usage::{children, load_average, memory_mb},
};

const HOSTILE: u8 = 50;
const HONEST: usize = 10;
/// Until the crowd holds what it gets.
const GATHERING: Duration = Duration::from_secs(5);
/// Whatever the model.
const GOAL: f64 = 3.0;
/// One that begins as soon as one does at a provider, and one that begins at once: of it, all that is seen is what the service takes.
const MODELS: [&str; 2] = ["bench-50-thinks", "bench-50-paced"];
/// An answer takes half a second and more: the honest ask one after another within it, as people do, and not all at once.
const BETWEEN: Duration = Duration::from_millis(50);

/// The crowd, for as long as this process lives.
pub async fn rage(service: &str, file: &str) {
    let _crowd = Crowd::start(service.parse().unwrap(), &auth(Path::new(file)), HOSTILE, Harm::OF_FIFTY);
    pending::<()>().await;
}

pub async fn section(bench: &Bench, time: Duration) {
    let last = std::thread::available_parallelism().unwrap().get() - 1;
    assert!(last > 0, "it takes two processors");
    let database = children(bench.postmaster).chain([bench.postmaster]);
    for id in database.chain([bench.service.id]) {
        run_on(id, "0").await;
    }
    for id in [bench.providers.id, std::process::id()] {
        run_on(id, &format!("1-{last}")).await;
    }
    println!("\n{HONEST} honest users stream, alone and beside {HOSTILE} hostile ones who do everything at once.\n");
    println!("| model | beside | answers/s | first chunk p50 / p99 ms | total p99 ms | memory most / now MB | load |");
    println!("|---|---|---|---|---|---|---|");
    let alone = rows(bench, "nobody", time).await;
    // It has them when none of the others wants them.
    let mut crowd = Command::new("chrt")
        .args(["--idle", "0"])
        .arg(std::env::current_exe().unwrap())
        .args(["crowd", &bench.service.address.to_string(), bench.file.to_str().unwrap()])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    tokio::time::sleep(GATHERING).await;
    let beside = rows(bench, "the crowd", time).await;
    crowd.kill().await.unwrap();
    let [seen, taken] = [0, 1].map(|model| beside[model].as_secs_f64() / alone[model].as_secs_f64());
    println!("\np99 of the first chunk beside the crowd: {seen:.1} times that alone (goal: at most {GOAL}).");
    println!("Of a model that begins at once, so of what the service itself takes: {taken:.1} times (the same goal).");
    tokio::time::sleep(Duration::from_mins(1)).await;
    let (most, now) = memory_mb(bench.service.id);
    println!("A minute after it left: {now:.0} MB of {most:.0} at most.");
    run_on(std::process::id(), &format!("0-{last}")).await;
}

/// Asks one model after the other, and says how long the first chunk took of 99 in 100.
async fn rows(bench: &Bench, beside: &str, time: Duration) -> Vec<Duration> {
    let mut first_chunks = Vec::new();
    for model in MODELS {
        let mut honest = Vec::new();
        for caller in 0..HONEST {
            honest.push(Caller::Gateway(Client::connect(bench, caller, model, true).await.into()));
        }
        closed_loop(&mut honest, time / 10).await;
        let cell = one_after_another(&mut honest, time, BETWEEN).await;
        let (most, now) = memory_mb(bench.service.id);
        println!(
            "| {model} | {beside} | {:.0} | {:.1} / {:.1} | {:.1} | {most:.0} / {now:.0} | {} |",
            cell.rate(),
            ms(cell.first_chunk(0.5)),
            ms(cell.first_chunk(0.99)),
            ms(cell.total(0.99)),
            load_average()
        );
        first_chunks.push(cell.first_chunk(0.99));
    }
    first_chunks
}

/// Has a process, with all that it is to start, run on these processors alone.
async fn run_on(id: u32, processors: &str) {
    let arguments = ["--all-tasks", "--cpu-list", "--pid", processors, &id.to_string()];
    let done = Command::new("taskset").args(arguments).stdout(Stdio::null()).status().await;
    assert!(done.is_ok_and(|status| status.success()), "taskset, of util-linux, does not do it");
}
