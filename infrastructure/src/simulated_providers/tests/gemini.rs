//! Google's Veo, asked by our own adapter.

use aihub_application::ports::{
    provider::FailureKind,
    video_provider::{JobState, Variant, VideoCall, VideoProvider as _},
};
use aihub_domain::video::format::{AspectRatio, Resolution};
use futures::TryStreamExt as _;
use tokio::time::timeout;

use super::{Harness, PATIENCE};
use crate::{
    providers::http::{ApiKey, ProviderHttp},
    simulated_providers::cases,
    video_providers::{contract::says, veo::VeoProvider},
};

fn film(knobs: &str, resolution: Resolution, seconds: u32) -> VideoCall {
    VideoCall {
        token: "a-token".into(),
        model: format!("veo-3.1-fast-generate-001+ttft=0s{knobs}"),
        prompt: "A calm ocean wave at sunset".into(),
        style: None,
        seconds,
        resolution,
        aspect_ratio: AspectRatio::Wide,
    }
}

impl Harness {
    fn veo(&self, key: &str) -> VeoProvider {
        let base_url = format!("http://{}/v1beta", self.addr);
        VeoProvider::new(&ProviderHttp::new(base_url, Some(ApiKey::new(key)))).unwrap()
    }

    /// How the operation stands once it has ended.
    async fn veo_end(&self, name: &str) -> JobState {
        let ended = async {
            loop {
                let state = self.veo("any").status(name).await.unwrap().state;
                if !matches!(state, JobState::Running { .. }) {
                    return state;
                }
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, ended).await.unwrap()
    }
}

#[tokio::test]
async fn veo_makes_a_film_that_is_one_redirect_away() {
    let harness = Harness::start().await;
    let veo = harness.veo("any");
    let name = veo.submit(&film("+vtime=50ms", Resolution::P720, 4)).await.unwrap();
    assert!(name.starts_with("models/veo-3.1-fast-generate-001/operations/sim"), "{name}");
    assert_eq!(harness.veo_end(&name).await, JobState::Completed);
    let file = veo.download(&name, Variant::Video).await.unwrap().unwrap();
    assert_eq!(file.content_type.as_deref(), Some("video/mp4"));
    let length = file.content_length.unwrap();
    let mp4 = file.content.try_collect::<Vec<_>>().await.unwrap().concat();
    assert_eq!((&mp4[4..8], mp4.len() as u64), (&b"ftyp"[..], length));
    let made = harness.simulator.videos();
    assert_eq!((made.len(), &made[0].id, made[0].downloads), (1, &name, 1));
    assert_eq!((made[0].size.as_str(), made[0].seconds), ("1280x720", 4));
}

#[tokio::test]
async fn veo_makes_eight_seconds_of_what_is_larger_and_refuses_others() {
    let harness = Harness::start().await;
    let veo = harness.veo("any");
    veo.submit(&film("", Resolution::K4, 8)).await.unwrap();
    assert_eq!(harness.simulator.videos()[0].size, "3840x2160");
    for (resolution, seconds) in [(Resolution::K4, 4), (Resolution::P1080, 6), (Resolution::P720, 5)] {
        let refused = veo.submit(&film("", resolution, seconds)).await.unwrap_err();
        assert_eq!((refused.error.kind, refused.in_doubt), (FailureKind::InvalidRequest, false));
    }
    let unknown = VideoCall { model: "veo-9".into(), ..film("", Resolution::P720, 4) };
    assert_eq!(veo.submit(&unknown).await.unwrap_err().error.kind, FailureKind::ModelUnavailable);
    let keyless = harness.veo("sk-invalid").submit(&film("", Resolution::P720, 4)).await.unwrap_err();
    assert!(!keyless.in_doubt, "{:?}", keyless.error);
    assert_eq!(harness.simulator.videos().len(), 1);
}

#[tokio::test]
async fn veo_fails_as_its_knobs_say_and_has_its_bad_days() {
    let harness = Harness::start().await;
    let veo = harness.veo("any");
    let late = veo.submit(&film("+vtime=10ms+fail=late", Resolution::P720, 4)).await.unwrap();
    assert_eq!(harness.veo_end(&late).await, JobState::Failed { code: "rai_media_filtered".into() });
    let busy = veo.submit(&film("+fail=before:429", Resolution::P720, 4)).await.unwrap_err();
    assert_eq!(busy.error.kind, FailureKind::RateLimited);
    let torn = veo.submit(&film("+tear=created", Resolution::P720, 4)).await.unwrap_err();
    assert!(torn.in_doubt);
    for case in cases::of_videos() {
        let Some(asked) = case.video.as_deref().and_then(|video| video.strip_prefix("veo ")) else { continue };
        let bad = VideoCall { model: format!("{}{}", cases::PREFIX, case.name), ..film("", Resolution::P720, 4) };
        // It is made as ever, and then stands oddly.
        let job = if asked == "create" { String::new() } else { veo.submit(&bad).await.unwrap() };
        assert_eq!(says(case, &veo, &bad, &job).await, case.says, "{}", case.name);
    }
}
