//! Who looks at what is not theirs is in the log before the answer comes: uses of the audit routes, and reports on
//! others.

use std::sync::Arc;

use aihub_application::{
    ports::event_log::{Metadata, NewEvent, StreamAppend, Unit},
    principal::Principal,
};
use aihub_domain::access::{Access, AccessCommand, AccessRecord};
use cqrs_es::Aggregate;
use uuid::Uuid;

use crate::{hub::Hub, problem::Problem};

/// Records what was asked for. What cannot be recorded is not answered.
pub async fn record<'a>(
    hub: &Hub,
    caller: &Principal,
    action: &str,
    parameters: impl IntoIterator<Item = (&'a str, Option<String>)>,
) -> Result<(), Problem> {
    let parameters = parameters.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
    let record = AccessRecord {
        user: caller.user.clone(),
        account: caller.account.clone(),
        action: action.to_owned(),
        parameters,
        accessed_at: hub.gateway.clock.now(),
    };
    let id = Uuid::now_v7();
    let events = Access::default().decide(AccessCommand::RecordAccess(record));
    let events = events.map_err(|error| Problem::internal(&error))?;
    let events: Result<Vec<_>, _> = events.iter().map(NewEvent::of).collect();
    let stream = StreamAppend {
        aggregate_type: Access::TYPE,
        aggregate_id: id.to_string(),
        expected_sequence: 0,
        events: events.map_err(|error| Problem::internal(&error))?,
    };
    let metadata = Metadata::from([
        ("actor", caller.user.clone()),
        ("correlationId", id.to_string()),
        ("node", hub.gateway.settings.node.clone()),
    ]);
    let unit = Unit { command_id: id, streams: vec![stream], metadata: Arc::new(metadata), basis: None };
    hub.gateway.log.append(unit).await.map_err(|error| Problem::internal(&error))?;
    Ok(())
}
