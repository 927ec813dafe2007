//! A video as OpenAI's API tells of it.

use serde::Serialize;

use super::super::super::{
    knobs::video::PromptTelling,
    videos::{Video, VideoStatus},
};

/// With all fields that OpenAI has, also those that are null.
#[derive(Serialize)]
pub(super) struct VideoBody<'a> {
    id: String,
    object: &'static str,
    created_at: i64,
    completed_at: Option<i64>,
    expires_at: Option<i64>,
    status: VideoStatus,
    progress: u8,
    model: &'static str,
    prompt: Option<&'a str>,
    seconds: String,
    size: String,
    remixed_from_video_id: Option<()>,
    error: Option<VideoError>,
}

#[derive(Serialize)]
struct VideoError {
    code: &'static str,
    message: &'static str,
}

#[derive(Serialize)]
pub(super) struct VideoList<'a> {
    pub object: &'static str,
    pub data: Vec<VideoBody<'a>>,
    pub first_id: Option<String>,
    pub last_id: Option<String>,
    pub has_more: bool,
}

#[derive(Serialize)]
pub(super) struct DeletedVideo {
    pub id: String,
    pub object: &'static str,
    pub deleted: bool,
}

impl<'a> VideoBody<'a> {
    /// As it stands now.
    pub fn of(video: &'a Video) -> Self {
        let (status, progress) = video.standing();
        let is_completed = status == VideoStatus::Completed;
        let is_failed = status == VideoStatus::Failed;
        Self {
            id: video.id(),
            object: "video",
            created_at: video.created_at.timestamp(),
            completed_at: (is_completed || is_failed).then(|| video.ended_at().timestamp()),
            expires_at: is_completed.then(|| video.expires_at().timestamp()),
            status,
            progress,
            model: video.order.model.name,
            prompt: (video.knobs.prompt != Some(PromptTelling::Hidden)).then_some(&*video.order.prompt),
            seconds: video.order.seconds.to_string(),
            size: video.order.size.to_string(),
            remixed_from_video_id: None,
            error: is_failed.then_some(VideoError {
                code: "moderation_blocked",
                message: "Your request was blocked by our moderation system. (simulated)",
            }),
        }
    }
}
