//! What fifty who mean harm cost ten who do not: the time to the first chunk without them and with them.

use std::{future::pending, path::Path, process::Stdio, time::Duration};

use aihub_tests::crowd::{Crowd, Harm};
use tokio::process::Command;

use crate::{
    client::Client,
    load::{Caller, closed_loop, ms},
    processes::{Bench, auth},
    usage::{load_average, memory_mb},
};

const HOSTILE: u8 = 50;
const HONEST: usize = 10;
/// Until the crowd holds what it gets.
const GATHERING: Duration = Duration::from_secs(5);
const GOAL: f64 = 3.0;

/// The crowd, for as long as this process lives.
pub async fn rage(service: &str, file: &str) {
    let _crowd = Crowd::start(service.parse().unwrap(), &auth(Path::new(file)), HOSTILE, Harm::OF_FIFTY);
    pending::<()>().await;
}

pub async fn section(bench: &Bench, time: Duration) {
    println!("\n{HONEST} honest users stream, alone and beside {HOSTILE} hostile ones who do everything at once.\n");
    println!("| beside | answers/s | first chunk p50 / p99 ms | total p99 ms | memory most / now MB | load |");
    println!("|---|---|---|---|---|---|");
    let mut honest = Vec::new();
    for caller in 0..HONEST {
        honest.push(Caller::Gateway(Client::connect(bench, caller, "bench-50-paced", true).await.into()));
    }
    closed_loop(&mut honest, time / 4).await;
    let alone = closed_loop(&mut honest, time).await;
    let row = |name: &str, cell: &crate::load::Cell| {
        let (most, now) = memory_mb(bench.service.id);
        println!(
            "| {name} | {:.0} | {:.1} / {:.1} | {:.1} | {most:.0} / {now:.0} | {} |",
            cell.rate(),
            ms(cell.first_chunk(0.5)),
            ms(cell.first_chunk(0.99)),
            ms(cell.total(0.99)),
            load_average()
        );
    };
    row("nobody", &alone);
    // It comes from elsewhere: here it is not to have the processors that the service would have then.
    let mut crowd = Command::new("nice")
        .args(["-n", "19"])
        .arg(std::env::current_exe().unwrap())
        .args(["crowd", &bench.service.address.to_string(), bench.file.to_str().unwrap()])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    tokio::time::sleep(GATHERING).await;
    let beside = closed_loop(&mut honest, time).await;
    row("the crowd", &beside);
    crowd.kill().await.unwrap();
    let ratio = beside.first_chunk(0.99).as_secs_f64() / alone.first_chunk(0.99).as_secs_f64();
    println!("\np99 of the first chunk beside the crowd: {ratio:.1} times that alone (goal: at most {GOAL}).");
    tokio::time::sleep(Duration::from_mins(1)).await;
    let (most, now) = memory_mb(bench.service.id);
    println!("A minute after it left: {now:.0} MB of {most:.0} at most.");
}
