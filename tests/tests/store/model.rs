//! The batch algorithm against the simplest one that is right: unit after unit.

use std::collections::HashMap;

use aihub_application::ports::event_log::{AppendError, EventLog, Unit};
use aihub_infrastructure::event_store::writer::WriterOptions;
use aihub_tests::{
    database,
    log::{AGGREGATE, Node, sequences, stream, unit, verified},
};
use futures::future::join_all;
use proptest::{
    collection::vec,
    prelude::{Strategy, any},
    strategy::ValueTree,
    test_runner::TestRunner,
};
use uuid::Uuid;

const STREAMS: usize = 3;
const RUNS: usize = 60;

/// What a caller tries. Sequences are given by how far off the stream's true head they are.
#[derive(Debug, Clone)]
enum Attempt {
    Append {
        parts: Vec<Part>,
        also_queued: bool,
    },
    /// The command of an earlier attempt, once more.
    Again {
        earlier: usize,
        also_queued: bool,
    },
    /// A row from a program that knows nothing of the log, once everything before has its outcome.
    Foreign {
        stream: usize,
    },
}

#[derive(Debug, Clone)]
struct Part {
    stream: usize,
    off_by: i64,
    events: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Appended(u64),
    Repeated(u64),
    Conflict(usize),
}

#[derive(Default)]
struct Model {
    heads: HashMap<String, u64>,
    known: HashMap<Uuid, u64>,
    position: u64,
}

impl Model {
    fn append(&mut self, unit: &Unit) -> Outcome {
        if let Some(position) = self.known.get(&unit.command_id) {
            return Outcome::Repeated(*position);
        }
        for (index, stream) in unit.streams.iter().enumerate() {
            if self.heads.get(&stream.aggregate_id).copied().unwrap_or_default() != stream.expected_sequence {
                return Outcome::Conflict(index);
            }
        }
        let first = self.position + 1;
        for stream in &unit.streams {
            *self.heads.entry(stream.aggregate_id.clone()).or_default() += stream.events.len() as u64;
            self.position += stream.events.len() as u64;
        }
        self.known.insert(unit.command_id, first);
        Outcome::Appended(first)
    }
}

fn attempts() -> impl Strategy<Value = Vec<Attempt>> {
    let off_by = proptest::prop_oneof![6 => 0_i64..1, 1 => -1_i64..2];
    let part = (0..STREAMS, off_by, 1_usize..4).prop_map(|(stream, off_by, events)| Part { stream, off_by, events });
    let parts = vec(part, 1..=STREAMS).prop_map(|mut parts| {
        parts.sort_by_key(|part| part.stream);
        parts.dedup_by_key(|part| part.stream);
        parts
    });
    let attempt = proptest::prop_oneof![
        8 => (parts, any::<bool>()).prop_map(|(parts, also_queued)| Attempt::Append { parts, also_queued }),
        2 => (0_usize..100, any::<bool>()).prop_map(|(earlier, also_queued)| Attempt::Again { earlier, also_queued }),
        1 => (0..STREAMS).prop_map(|stream| Attempt::Foreign { stream }),
    ];
    vec(attempt, 1..40)
}

#[tokio::test]
async fn a_batch_comes_to_what_its_units_come_to_one_by_one() {
    let database = database().await;
    // Small batches, so that their borders fall everywhere.
    let options = WriterOptions { max_batch_events: 7, ..WriterOptions::default() };
    let node = Node::start_with(&database.database, options);
    let mut runner = TestRunner::default();
    let mut model = Model::default();
    for run in 0..RUNS {
        let attempts = attempts().new_tree(&mut runner).unwrap().current();
        let id = |stream: usize| format!("{run}-{stream}");
        let mut units: Vec<Unit> = Vec::new();
        let mut queued = Vec::new();
        let mut expected = Vec::new();
        for attempt in &attempts {
            let (next, also_queued) = match attempt {
                Attempt::Append { parts, also_queued } => {
                    let streams = parts.iter().map(|part| {
                        let head = model.heads.get(&id(part.stream)).copied().unwrap_or_default();
                        stream(&id(part.stream), head.saturating_add_signed(part.off_by), part.events)
                    });
                    (unit(streams), *also_queued)
                }
                Attempt::Again { .. } if units.is_empty() => continue,
                Attempt::Again { earlier, also_queued } => (units[earlier % units.len()].clone(), *also_queued),
                Attempt::Foreign { stream } => {
                    check(&attempts, std::mem::take(&mut queued), std::mem::take(&mut expected)).await;
                    let head = model.heads.entry(id(*stream)).or_default();
                    *head += 1;
                    model.position += 1;
                    sqlx::query(
                        "INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
                         VALUES ($1, $2, $3, 'Imported', '1', '{}', '{}')",
                    )
                    .bind(AGGREGATE)
                    .bind(id(*stream))
                    .bind(head.cast_signed())
                    .execute(database.pool())
                    .await
                    .unwrap();
                    continue;
                }
            };
            expected.push(model.append(&next));
            queued.push(node.log.append(next.clone()));
            units.push(next);
            if !also_queued {
                check(&attempts, std::mem::take(&mut queued), std::mem::take(&mut expected)).await;
            }
        }
        check(&attempts, queued, expected).await;
    }
    let events = verified(database.pool()).await;
    assert_eq!(events.len() as u64, model.position);
    for (id, head) in &model.heads {
        assert_eq!(sequences(&events, id), (1..=*head).collect::<Vec<_>>());
    }
}

async fn check(attempts: &[Attempt], queued: Vec<aihub_application::ports::event_log::Append>, expected: Vec<Outcome>) {
    let outcomes = join_all(queued).await.into_iter().map(|outcome| match outcome {
        Ok(appended) if appended.repeated => Outcome::Repeated(appended.position),
        Ok(appended) => Outcome::Appended(appended.position),
        Err(AppendError::Conflict { stream }) => Outcome::Conflict(stream),
        Err(error) => panic!("{error}"),
    });
    assert_eq!(outcomes.collect::<Vec<_>>(), expected, "{attempts:#?}");
}
