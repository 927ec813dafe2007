//! A thousand video jobs, from the request to the stored file, against a client that asks the provider itself and writes
//! nothing down. The videos are ready at once: 4 s of 1280x720, 20 kB.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use reqwest::Client;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{
    processes::{Bench, VIDEO_MODEL, VIDEOS_AT_ONCE},
    usage::{Cpu, memory_mb},
};

const JOBS: usize = 1_000;
const REQUESTERS: usize = 16;

pub async fn section(bench: &Bench) {
    println!("\nvideos: {JOBS} jobs, {VIDEOS_AT_ONCE} at once");
    let client = Client::builder().no_proxy().build().unwrap();
    // The provider makes the file once.
    direct(&client, bench.providers.address).await;
    let began = Instant::now();
    stream::iter(0..JOBS)
        .for_each_concurrent(VIDEOS_AT_ONCE, async |_| direct(&client, bench.providers.address).await)
        .await;
    let direct = JOBS as f64 / began.elapsed().as_secs_f64();
    println!("  a client of the provider itself   {direct:7.0} videos/s");

    let (cpu, (_, memory_before), began) = (Cpu::now(bench), memory_mb(bench.service.id), Instant::now());
    stream::iter(0..JOBS).for_each_concurrent(REQUESTERS, async |nth| generate(bench, &client, nth).await).await;
    let requested = JOBS as f64 / began.elapsed().as_secs_f64();
    while ended(bench).await < JOBS {
        sleep(Duration::from_millis(50)).await;
    }
    let finished = JOBS as f64 / began.elapsed().as_secs_f64();
    let cpu = Cpu::now(bench).since(cpu);
    let (peak, _) = memory_mb(bench.service.id);
    let per_job = |time: Duration| time.as_secs_f64() * 1e3 / JOBS as f64;
    println!("  requested, held and queued        {requested:7.0} jobs/s, while others are made");
    println!(
        "  made, stored and settled          {finished:7.0} jobs/s, {:.2} of the client itself",
        finished / direct
    );
    println!("  CPU a job: service {:.1} ms, PostgreSQL {:.1} ms", per_job(cpu.service), per_job(cpu.postgres));
    println!("  memory of the service: {memory_before:.0} MB before, {peak:.0} MB at most");
}

/// Submit, ask until it is done, fetch both files.
async fn direct(client: &Client, provider: SocketAddr) {
    let videos = format!("http://{provider}/v1/videos");
    let body = json!({ "prompt": "a calm sea", "model": VIDEO_MODEL, "seconds": "4", "size": "1280x720" }).to_string();
    let create = client.post(&videos).bearer_auth("sk-simulated").header("content-type", "application/json").body(body);
    let video: Value = create.send().await.unwrap().json().await.unwrap();
    let url = format!("{videos}/{}", video["id"].as_str().unwrap_or_else(|| panic!("{video}")));
    loop {
        let status: Value = client.get(&url).bearer_auth("sk-simulated").send().await.unwrap().json().await.unwrap();
        if status["status"] == "completed" {
            break;
        }
        sleep(Duration::from_millis(100)).await;
    }
    for variant in ["video", "thumbnail"] {
        let content = client.get(format!("{url}/content?variant={variant}")).bearer_auth("sk-simulated").send();
        content.await.unwrap().error_for_status().unwrap().bytes().await.unwrap();
    }
}

async fn generate(bench: &Bench, client: &Client, nth: usize) {
    let url = format!("http://{}/api/mcp/sora2/generate", bench.service.address);
    let body = json!({ "prompt": "a calm sea", "duration": 4 }).to_string();
    let answer = client.post(url).bearer_auth(bench.token(nth)).body(body).send().await.unwrap();
    assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
}

async fn ended(bench: &Bench) -> usize {
    let ended = "SELECT count(*) FROM events WHERE aggregate_type = 'video' AND event_type = 'VideoCompleted'";
    let ended: i64 = sqlx::query_scalar(ended).fetch_one(&bench.pool).await.unwrap();
    usize::try_from(ended).unwrap()
}
