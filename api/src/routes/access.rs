//! Who looks at what is not theirs is in the log before the answer comes: uses of the audit routes, reports on others, and
//! others' balances, requests, videos and webhooks.

use std::collections::BTreeMap;

use aihub_application::{access, principal::Principal};
use aihub_domain::access::AccessRecord;

use crate::{hub::Hub, problem::Problem};

/// What a record takes besides its parameters.
const RECORD_BYTES: usize = 512;

/// Records what was asked for. What cannot be recorded is not answered.
pub async fn record<'a>(
    hub: &Hub,
    caller: &Principal,
    action: &str,
    parameters: impl IntoIterator<Item = (&'a str, Option<String>)>,
) -> Result<(), Problem> {
    let parameters: BTreeMap<String, String> =
        parameters.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
    // It is an event, and counts as what its caller has written.
    let bytes = parameters.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() + RECORD_BYTES;
    hub.gateway.limits.take_bytes(caller, bytes).inspect_err(|error| hub.gateway.note(caller, error))?;
    let record = AccessRecord {
        user: caller.user.clone(),
        account: caller.account.clone(),
        action: action.to_owned(),
        parameters,
        accessed_at: hub.gateway.clock.now(),
    };
    let recorded = access::record(&*hub.gateway.log, record, &hub.gateway.settings.node).await;
    recorded.map_err(|error| Problem::internal(&error))
}
