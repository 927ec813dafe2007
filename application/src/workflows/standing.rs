//! How a workflow stands, for its owner: with what the steps have made, and the videos.

use std::collections::BTreeMap;

use aihub_domain::{
    money::Microcredits,
    workflow::{StepStatus, event::Work},
};
use serde_json::{Map, Value};

use super::{Workflows, answers::Recorded, runs::Run};
use crate::{error::GatewayError, ports::vault::VaultError, videos::jobs::Known};

/// What is known of a workflow beside its own events.
#[derive(Debug, Clone)]
pub struct Standing {
    /// What each step of text has made, by the step's name; nothing where the account's content was erased.
    pub outputs: Map<String, Value>,
    /// By their ids.
    pub videos: BTreeMap<String, Known>,
    /// By the step's name, up to now.
    pub charged: BTreeMap<String, Microcredits>,
}

impl Workflows {
    pub async fn standing(&self, run: &Run) -> Result<Standing, GatewayError> {
        let outputs = match self.opened(run).await {
            Ok((_, outputs)) => outputs,
            Err(VaultError::Erased) => Map::new(),
            Err(error) => return Err(GatewayError::internal(&error)),
        };
        let (mut videos, mut charged) = (BTreeMap::new(), BTreeMap::new());
        for (step, state) in run.workflow.steps() {
            let mut of_step = state.charged;
            match &step.work {
                Work::Make { .. } => {
                    of_step = Microcredits::ZERO;
                    for video_id in &state.videos {
                        let known = self.videos.jobs.load(video_id).await;
                        let Some(known) = known.map_err(|error| GatewayError::internal(&error))? else { continue };
                        let made = known.job.outcome().map_or(Microcredits::ZERO, |made| made.charge.amount);
                        of_step = of_step.plus(made);
                        videos.insert(video_id.clone(), known);
                    }
                }
                // The request of an attempt that runs, or ran when the workflow was cancelled.
                Work::Text { .. } => {
                    if let (StepStatus::Running, Some(request_id)) = (state.status, &state.request_id) {
                        match self.recorded(request_id).await {
                            Ok(Recorded::Answered { charged, .. } | Recorded::Failed { charged, .. }) => {
                                of_step = of_step.plus(charged);
                            }
                            Ok(Recorded::Nothing | Recorded::Open) => {}
                            Err(error) => return Err(GatewayError::internal(&format!("{error:#}"))),
                        }
                    }
                }
            }
            charged.insert(step.name.clone(), of_step);
        }
        Ok(Standing { outputs, videos, charged })
    }
}
