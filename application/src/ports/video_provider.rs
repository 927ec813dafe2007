//! Providers of video, in the vocabulary that all of them share. A video takes minutes: it is submitted, looked at now
//! and then, and fetched.

use std::{sync::Arc, time::Duration};

use aihub_domain::video::format::{AspectRatio, Resolution};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::{
    FutureExt,
    future::{self, BoxFuture},
    stream::BoxStream,
};

use super::provider::ProviderError;

/// What is submitted. The same call can be made again where [`Recovery`] allows it.
#[derive(Debug, Clone)]
pub struct VideoCall {
    /// Names the submission: the same for every try of it, and for nothing else. At most 64 ASCII characters.
    pub token: String,
    /// The model under the name that this provider gives it.
    pub model: String,
    pub prompt: Arc<str>,
    /// Free text, in the client's words. A provider without such a parameter gets it as the end of the prompt.
    pub style: Option<Arc<str>>,
    pub seconds: u32,
    pub resolution: Resolution,
    pub aspect_ratio: AspectRatio,
}

/// What can be done about a submission whose answer was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovery {
    /// The provider knows the token: the same call again gives the same job.
    Idempotent,
    /// The provider lists what was submitted, see [`VideoProvider::find`].
    Lookup,
    /// Neither: somebody has to decide.
    None,
}

/// Why a submission has no job at the provider, as far as is known.
#[derive(Debug, Clone)]
pub struct SubmitError {
    pub error: ProviderError,
    /// The provider may have taken it all the same: its answer was lost, or was no refusal. A connection that was
    /// never made, and a status below 500, is one.
    pub in_doubt: bool,
    /// It said that it has taken it, and gave it no name that it can be asked for by: nobody is to submit it again.
    pub said_yes: bool,
}

/// A provider's job that may have come from a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub provider_job_id: String,
    /// All that the call says is shown of it, the prompt before all, and is the same. Of any other it cannot be known whose
    /// it is.
    pub is_certain: bool,
    /// All that is shown of its prompt, where that is only the beginning of the call's: it speaks for every call that begins so.
    pub beginning: Option<String>,
}

/// How a job stands at its provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobStatus {
    pub state: JobState,
    /// When the provider wants to be asked again, where it says so.
    pub poll_after: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobState {
    /// `progress` in percent, where the provider tells it.
    Running {
        progress: Option<u8>,
    },
    Completed,
    /// The provider has a word for it that nobody knows, so that it may be anything.
    Unclear {
        word: String,
    },
    /// `code` is the provider's own, in lower case letters, digits and underscores; at most 64. No message: those quote
    /// prompts.
    Failed {
        code: String,
    },
    /// There is no such job there, or no more.
    Gone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    Video,
    Thumbnail,
}

/// A file on its way here. Dropping it aborts the download.
pub struct Download {
    /// As the provider says.
    pub content_type: Option<String>,
    pub content_length: Option<u64>,
    pub content: BoxStream<'static, Result<Bytes, ProviderError>>,
}

const MAX_JOB_ID_BYTES: usize = 1_024;

/// A name that a job can be asked for by: what stands between its slashes is a part of a path, and none of it leads elsewhere.
pub fn is_job_id(id: &str) -> bool {
    !id.is_empty()
        && id.len() <= MAX_JOB_ID_BYTES
        && id.bytes().all(|c| c.is_ascii_graphic())
        && !id.split('/').any(|segment| matches!(segment, "" | "." | ".."))
}

pub trait VideoProvider: Send + Sync {
    fn recovery(&self) -> Recovery;

    /// The provider's name for the job: at most 1,024 bytes.
    fn submit<'a>(&'a self, call: &'a VideoCall) -> BoxFuture<'a, Result<String, SubmitError>>;

    /// The jobs there that may have come from this call, of those made from `since` on: all of which nothing that is shown
    /// speaks against it. With [`Recovery::Lookup`] only.
    fn find<'a>(
        &'a self,
        call: &'a VideoCall,
        since: DateTime<Utc>,
    ) -> BoxFuture<'a, Result<Vec<Found>, ProviderError>>;

    fn status<'a>(&'a self, provider_job_id: &'a str) -> BoxFuture<'a, Result<JobStatus, ProviderError>>;

    /// A completed job's file; `None` where the provider has no such variant.
    fn download<'a>(
        &'a self,
        provider_job_id: &'a str,
        variant: Variant,
    ) -> BoxFuture<'a, Result<Option<Download>, ProviderError>>;

    /// Ends a running job, or removes what is left of one. A provider that cannot do so does nothing.
    fn cancel<'a>(&'a self, _provider_job_id: &'a str) -> BoxFuture<'a, Result<(), ProviderError>> {
        future::ready(Ok(())).boxed()
    }
}
