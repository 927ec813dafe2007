//! The table of bad days, `simulated_providers/cases/videos.toml`, through every adapter: each answer whole, and cut at every byte.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use aihub_application::ports::video_provider::{JobState, Variant, VideoCall, VideoProvider};
use futures::TryStreamExt;
use tokio::{net::TcpListener, task::JoinSet};

use super::{
    openai::{OpenAiVideoOptions, OpenAiVideoProvider},
    tests::call,
    veo::VeoProvider,
    xai::XaiVideoProvider,
};
use crate::{
    providers::http::{ApiKey, ProviderHttp},
    simulated_providers::cases::{self, Case, cut::serve},
};

/// What an answer means, as the table has it: to who submits `call`, or asks for the job of this name.
pub(crate) async fn says(case: &Case, provider: &dyn VideoProvider, call: &VideoCall, job: &str) -> String {
    match case.video.as_deref().unwrap().split_once(' ').unwrap().1 {
        "create" => match provider.submit(call).await {
            Ok(job) => format!("job {job}"),
            Err(failed) => {
                let made = match (failed.said_yes, failed.in_doubt) {
                    (true, _) => "yes",
                    (false, true) => "perhaps",
                    (false, false) => "no",
                };
                format!("error {:?}, made: {made}", failed.error.kind)
            }
        },
        "status" => match provider.status(job).await.map(|status| status.state) {
            Ok(JobState::Running { progress: None }) => "running".to_owned(),
            Ok(JobState::Running { progress: Some(percent) }) => format!("running {percent}"),
            Ok(JobState::Completed) => "completed".to_owned(),
            Ok(JobState::Unclear { word }) => format!("unclear {word}"),
            Ok(JobState::Failed { code }) => format!("failed {code}"),
            Ok(JobState::Gone) => "gone".to_owned(),
            Err(error) => format!("error {:?}", error.kind),
        },
        "content" => match provider.download("1", Variant::Video).await {
            Ok(file) => {
                let file = file.unwrap();
                let content_type = file.content_type.clone().unwrap_or_default();
                let bytes = file.content.try_collect::<Vec<_>>().await.unwrap().concat();
                assert_eq!(bytes, case.body.as_bytes(), "{}", case.name);
                format!("file {content_type}")
            }
            Err(error) => format!("error {:?}", error.kind),
        },
        other => panic!("{}: nothing is asked for by {other}", case.name),
    }
}

#[tokio::test]
async fn every_bad_day_of_a_server_that_makes_videos_means_what_its_table_says_wherever_it_is_cut() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut server = JoinSet::new();
    let at = Arc::new(AtomicUsize::new(0));
    let cases = cases::of_videos();
    server.spawn(serve(listener, cases, at.clone()));
    assert!(cases.len() > 35, "{}", cases.len());
    let mut wrong = vec![];
    for case in cases {
        let http = ProviderHttp::new(format!("http://{address}/{}", case.name), Some(ApiKey::new("sk-test")));
        let provider: Box<dyn VideoProvider> = match case.video.as_deref().unwrap().split_once(' ').unwrap().0 {
            "openai" => Box::new(OpenAiVideoProvider::new(&http, OpenAiVideoOptions::default()).unwrap()),
            "veo" => Box::new(VeoProvider::new(&http).unwrap()),
            "xai" => Box::new(XaiVideoProvider::new(&http).unwrap()),
            other => panic!("{}: nobody speaks {other}", case.name),
        };
        for cut in 0..case.body.len() {
            at.store(cut, Relaxed);
            let says = says(case, provider.as_ref(), &call(), "models/m/operations/1").await;
            if says != case.says {
                wrong.push(format!("{} cut at {cut}: {says}", case.name));
                break;
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
