//! Into a queue of limited length: a seat is taken, who sits there is committed to the log, and the seat is given back where
//! that certainly did not happen.

use std::{sync::Arc, time::Duration};

use tokio_util::task::TaskTracker;
use tracing::Instrument;
use uuid::Uuid;

use crate::{
    error::GatewayError,
    ports::{
        jobs::JobKind,
        seats::{Applicant, Depth, Seats, Taken},
    },
    principal::Principal,
};

/// When a full queue is worth another try.
const QUEUE_RETRY: Duration = Duration::from_secs(30);
/// When a log is that had too much to do.
const LOG_RETRY: Duration = Duration::from_secs(1);

/// Why who took a seat does not sit there.
pub(crate) enum NotAdmitted {
    /// There is a job of this name.
    Known,
    /// There is none.
    Refused(GatewayError),
    /// It may have been committed. If it was, it is a job like any other, which has its seat, and the same key finds it.
    Unknown(GatewayError),
}

impl From<GatewayError> for NotAdmitted {
    fn from(error: GatewayError) -> Self {
        Self::Refused(error)
    }
}

/// The queue that is to be got into, and how many may be in it.
pub(crate) struct Queue {
    pub kind: JobKind,
    pub most: Depth,
    pub seats: Arc<dyn Seats>,
    pub tasks: TaskTracker,
}

impl Queue {
    /// In a task of its own: a client that leaves meanwhile keeps no seat.
    pub async fn admit<T: Send + 'static>(
        self,
        id: String,
        account: String,
        commit: impl Future<Output = Result<T, NotAdmitted>> + Send + 'static,
    ) -> Result<T, NotAdmitted> {
        let Self { kind, most, seats, tasks } = self;
        let admission = async move {
            let seat = take(&*seats, Applicant { kind, id: &id, account: &account }, most).await?;
            let committed = commit.await;
            if let Err(NotAdmitted::Known | NotAdmitted::Refused(_)) = committed
                && let Err(error) = seats.give_back(seat).await
            {
                tracing::warn!(
                    error.message = format!("{error:#}"),
                    "a seat in a queue was not given back; it counts for a minute, and then no more"
                );
            }
            committed
        };
        let admitted = tasks.spawn(admission.in_current_span()).await;
        admitted.unwrap_or_else(|error| Err(NotAdmitted::Unknown(GatewayError::internal(&error))))
    }
}

async fn take(seats: &dyn Seats, applicant: Applicant<'_>, most: Depth) -> Result<Uuid, GatewayError> {
    match seats.take(applicant, most).await {
        Ok(Taken::Seat(seat)) => Ok(seat),
        Ok(Taken::Full(Depth { all, of_account })) => {
            let there = if all < most.all { of_account } else { all };
            let there = usize::try_from(there).unwrap_or(usize::MAX);
            let (running, waiting) = match applicant.kind {
                JobKind::Video => (0, there),
                JobKind::Workflow => (there, 0),
            };
            Err(GatewayError::QueueFull { running, waiting, retry_after: QUEUE_RETRY })
        }
        Err(error) => {
            tracing::warn!(error.message = format!("{error:#}"), "whether there is room in a queue cannot be asked");
            Err(GatewayError::unavailable())
        }
    }
}

/// The log has too much to do, and nothing was appended.
pub(crate) fn overloaded() -> GatewayError {
    GatewayError::QueueFull { running: 0, waiting: 0, retry_after: LOG_RETRY }
}

/// The name of the job that this user's key makes.
pub(crate) fn keyed_id(kind: JobKind, principal: &Principal, key: &str) -> String {
    const VIDEOS: Uuid = Uuid::from_u128(0x0d3e_4a1c_92b7_4f0e_8a6d_2f51_c7b0_33de);
    const WORKFLOWS: Uuid = Uuid::from_u128(0x71c3_9e54_0ab8_4d1f_b6e2_58d4_903f_a7c6);
    let namespace = match kind {
        JobKind::Video => VIDEOS,
        JobKind::Workflow => WORKFLOWS,
    };
    // The lengths keep two different pairs of names from spelling the same text.
    let (account, user) = (&principal.account, &principal.user);
    let name = format!("{}:{account}{}:{user}{key}", account.len(), user.len());
    Uuid::new_v5(&namespace, name.as_bytes()).to_string()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use futures::{FutureExt, future::BoxFuture};
    use tokio::sync::oneshot;

    use super::*;

    #[derive(Default)]
    struct Watched(Mutex<Vec<Uuid>>);

    impl Seats for Watched {
        fn take<'a>(&'a self, _: Applicant<'a>, _: Depth) -> BoxFuture<'a, anyhow::Result<Taken>> {
            let seat = Uuid::now_v7();
            self.0.lock().unwrap().push(seat);
            async move { Ok(Taken::Seat(seat)) }.boxed()
        }

        fn give_back(&self, seat: Uuid) -> BoxFuture<'_, anyhow::Result<()>> {
            self.0.lock().unwrap().retain(|taken| *taken != seat);
            async { Ok(()) }.boxed()
        }
    }

    /// How many seats are taken after a client has left while it was waiting for `outcome`.
    async fn left_behind(outcome: Result<(), NotAdmitted>) -> usize {
        let (seats, tasks) = (Arc::new(Watched::default()), TaskTracker::new());
        let queue = Queue { kind: JobKind::Video, most: Depth::default(), seats: seats.clone(), tasks: tasks.clone() };
        let (begun, has_begun) = oneshot::channel();
        let (decide, decided) = oneshot::channel();
        let commit = async move {
            begun.send(()).unwrap();
            decided.await.unwrap()
        };
        {
            let client = queue.admit("job".to_owned(), "ada".to_owned(), commit);
            tokio::select! {
                _ = client => panic!("nothing is decided"),
                begun = has_begun => begun.unwrap(),
            }
        }
        assert_eq!(seats.0.lock().unwrap().len(), 1);
        assert!(decide.send(outcome).is_ok());
        tasks.close();
        tasks.wait().await;
        seats.0.lock().unwrap().len()
    }

    #[tokio::test]
    async fn a_client_that_leaves_keeps_no_seat_unless_its_job_may_be_there() {
        let error = GatewayError::ShuttingDown;
        assert_eq!(left_behind(Err(NotAdmitted::Refused(error.clone()))).await, 0);
        assert_eq!(left_behind(Err(NotAdmitted::Known)).await, 0);
        assert_eq!(left_behind(Err(NotAdmitted::Unknown(error))).await, 1);
        assert_eq!(left_behind(Ok(())).await, 1, "the queue frees it when it has read the job");
    }
}
