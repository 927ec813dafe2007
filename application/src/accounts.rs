//! Commands on credit accounts, decided in memory and committed in batches.
//!
//! An account's commands are decided one after another on the state that the queued ones will have made, and go
//! into the log in that order without waiting for each other. That is what lets one account take thousands of
//! reservations a second. When another node (or a CLI) was first, the log refuses the unit: what was decided in
//! memory is discarded, the account is loaded again and the command decided again.
//!
//! A refusal is never decided on memory alone: before it is given, the account is brought up to date from the log
//! with nothing of ours in flight. So it states a balance that was true.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use aihub_domain::account::{Account, AccountError, command::AccountCommand, event::AccountEvent};
use cqrs_es::Aggregate;
use thiserror::Error;
use tokio::{sync::Notify, time::Instant};
use uuid::Uuid;

use crate::ports::event_log::{AppendError, Basis, EventLog, LoadError, Metadata, Snapshot, StreamAppend, Unit};

/// For how long a command is decided again because another writer was first. Each time somebody else got on.
const MAX_CONTENTION: Duration = Duration::from_secs(5);
/// An account that is busy without a break for this long makes one of [`BREATH`], in which another node, or a CLI, can
/// load it and append: without it a node that keeps the account busy would never let anybody else in.
const BREATHE_EVERY: Duration = Duration::from_millis(100);
const BREATH: Duration = Duration::from_millis(3);
/// A snapshot is kept every so many events of an account.
const SNAPSHOT_EVERY: u64 = 1_000;
/// Accounts kept in memory; the ones that nobody uses go first.
const MAX_CACHED: usize = 50_000;

/// The events of a command's own stream, given the account events that go with them.
pub type Companions<'a> = &'a (dyn Fn(&[AccountEvent]) -> Result<Vec<StreamAppend>, serde_json::Error> + Send + Sync);

#[derive(Debug, Error)]
pub enum ExecuteError {
    #[error(transparent)]
    Refused(#[from] AccountError),
    /// A companion stream had moved on: its aggregate has changed since.
    #[error("a stream that was to be appended to along with the account has moved on")]
    CompanionConflict,
    #[error("for {} s other writers were always first on this account", MAX_CONTENTION.as_secs())]
    Contended,
    #[error(transparent)]
    Append(AppendError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error("an event does not serialise: {0}")]
    Serialise(#[from] serde_json::Error),
}

pub struct Accounts {
    log: Arc<dyn EventLog>,
    slots: Mutex<HashMap<String, Arc<Slot>>>,
}

/// An account in memory. The lock is held while deciding and while loading, never while a commit is awaited.
#[derive(Default)]
struct Slot {
    state: tokio::sync::Mutex<Option<Loaded>>,
    /// Units that were queued and have no outcome yet.
    in_flight: AtomicUsize,
    landed: Notify,
    /// Something that was decided did not get into the log: the state in memory is not to be trusted.
    stale: AtomicBool,
    /// Since when there has always been something in flight.
    busy_since: Mutex<Option<Instant>>,
}

#[derive(Clone, Default)]
struct Loaded {
    account: Account,
    sequence: u64,
    snapshot_sequence: u64,
    /// Of everything that is decided on this state and on what it becomes, until it is discarded.
    basis: Basis,
    /// What was last read from the log, to read on from when the state is discarded.
    read: Option<Arc<(Account, u64)>>,
}

impl Accounts {
    pub fn new(log: Arc<dyn EventLog>) -> Self {
        Self { log, slots: Mutex::default() }
    }

    /// Whether the account might refuse this command, by what is known of it here, without waiting.
    pub fn may_refuse(&self, account_id: &str, command: &AccountCommand) -> bool {
        let slot = self.slot(account_id);
        slot.state.try_lock().map_or(true, |state| decide(state.as_ref(), command).is_err())
    }

    /// Whether the account would refuse this command as it is now; nothing is changed.
    pub async fn foresee(&self, account_id: &str, command: &AccountCommand) -> Result<(), ExecuteError> {
        let slot = self.slot(account_id);
        let mut state = slot.state.lock().await;
        self.decided(&slot, &mut state, account_id, command).await.map(drop)
    }

    /// Decides `command` and commits its events, together with what `companions` adds on other streams, as one
    /// unit. Returns the account's events; none means that the command had nothing to do.
    ///
    /// Once this was polled, the unit may be committed even if the future is dropped.
    pub async fn execute(
        &self,
        account_id: &str,
        command: &AccountCommand,
        companions: Companions<'_>,
        metadata: &Arc<Metadata>,
    ) -> Result<Vec<AccountEvent>, ExecuteError> {
        let slot = self.slot(account_id);
        let give_up_at = Instant::now() + MAX_CONTENTION;
        for conflicts in 0.. {
            let (events, append, snapshot) = {
                let mut state = slot.state.lock().await;
                slot.breathe().await;
                let events = self.decided(&slot, &mut state, account_id, command).await?;
                if events.is_empty() {
                    return Ok(events);
                }
                let Some(loaded) = state.as_mut() else { continue };
                let mut streams = vec![StreamAppend::of::<Account>(account_id, loaded.sequence, &events)?];
                streams.extend(companions(&events)?);
                for event in &events {
                    loaded.account.evolve(event);
                }
                loaded.sequence += events.len() as u64;
                let snapshot = loaded.due_snapshot()?;
                let flight = Flight::start(&slot);
                let basis = Some(loaded.basis.clone());
                let unit = Unit { command_id: Uuid::now_v7(), streams, metadata: metadata.clone(), basis };
                (events, (self.log.append(unit), flight), snapshot)
            };
            let (append, flight) = append;
            match append.await {
                Ok(_) => {
                    flight.landed();
                    if let Some(snapshot) = snapshot
                        && let Err(error) = self.log.save_snapshot(Account::TYPE, account_id, snapshot).await
                    {
                        tracing::warn!(error.message = %error, "a snapshot was not kept; loading takes longer");
                    }
                    return Ok(events);
                }
                Err(AppendError::Conflict { stream: 0 }) => {
                    drop(flight);
                    if Instant::now() > give_up_at {
                        break;
                    }
                    back_off(conflicts).await;
                }
                Err(AppendError::Conflict { .. }) => return Err(ExecuteError::CompanionConflict),
                Err(error) => return Err(ExecuteError::Append(error)),
            }
        }
        Err(ExecuteError::Contended)
    }

    /// The account as the log has it now.
    pub async fn load(&self, account_id: &str) -> Result<Account, LoadError> {
        let slot = self.slot(account_id);
        let mut state = slot.state.lock().await;
        self.reload(&slot, &mut state, account_id).await?;
        Ok(state.as_ref().map(|loaded| loaded.account.clone()).unwrap_or_default())
    }

    /// The account with what this node has queued for it and what others have committed. It holds up no command and
    /// waits for no commit, so it is for showing only.
    pub async fn glance(&self, account_id: &str) -> Result<Account, LoadError> {
        let slot = self.slot(account_id);
        let known = slot.state.lock().await.clone().filter(|_| !slot.stale.load(Ordering::Acquire));
        let Some(mut known) = known else { return self.load(account_id).await };
        for event in self.log.load(Account::TYPE, account_id, known.sequence).await? {
            known.account.evolve(&event.decode(Account::TYPE, account_id)?);
        }
        Ok(known.account)
    }

    fn slot(&self, account_id: &str) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.get(account_id) {
            return slot.clone();
        }
        if slots.len() >= MAX_CACHED {
            slots.retain(|_, slot| Arc::strong_count(slot) > 1);
        }
        let slot = Arc::<Slot>::default();
        slots.insert(account_id.to_owned(), slot.clone());
        slot
    }

    /// What comes of `command`; where that is a refusal, by what the log has.
    async fn decided(
        &self,
        slot: &Slot,
        state: &mut Option<Loaded>,
        account_id: &str,
        command: &AccountCommand,
    ) -> Result<Vec<AccountEvent>, ExecuteError> {
        if state.is_none() || slot.stale.load(Ordering::Acquire) {
            self.reload(slot, state, account_id).await?;
        }
        let decided = decide(state.as_ref(), command);
        if decided.is_ok() {
            return Ok(decided?);
        }
        self.reload(slot, state, account_id).await?;
        Ok(decide(state.as_ref(), command)?)
    }

    /// Brings the state to what the log has, once nothing of ours is in flight any more. Nothing new can start
    /// meanwhile, because the caller holds the slot's lock.
    async fn reload(&self, slot: &Slot, state: &mut Option<Loaded>, account_id: &str) -> Result<(), LoadError> {
        slot.all_landed().await;
        let discard = slot.stale.swap(false, Ordering::AcqRel);
        let mut loaded = match state.take() {
            Some(loaded) if !discard => loaded,
            Some(discarded) => {
                // What nobody waited for may still be queued. It was decided on a state that is no more.
                discarded.basis.break_off();
                match discarded.read {
                    Some(read) => Loaded::read(read.0.clone(), read.1, discarded.snapshot_sequence.min(read.1)),
                    None => self.load_snapshot(account_id).await?,
                }
            }
            None => self.load_snapshot(account_id).await?,
        };
        for event in self.log.load(Account::TYPE, account_id, loaded.sequence).await? {
            loaded.sequence = event.sequence;
            let event: AccountEvent = event.decode(Account::TYPE, account_id)?;
            loaded.account.evolve(&event);
        }
        loaded.read = Some(Arc::new((loaded.account.clone(), loaded.sequence)));
        *state = Some(loaded);
        Ok(())
    }

    async fn load_snapshot(&self, account_id: &str) -> Result<Loaded, LoadError> {
        let Some(snapshot) = self.log.load_snapshot(Account::TYPE, account_id).await? else {
            return Ok(Loaded::default());
        };
        // A snapshot of an older shape is not worth an error: the events tell everything.
        Ok(serde_json::from_value(snapshot.state)
            .map(|account| Loaded::read(account, snapshot.sequence, snapshot.sequence))
            .unwrap_or_default())
    }
}

fn decide(state: Option<&Loaded>, command: &AccountCommand) -> Result<Vec<AccountEvent>, AccountError> {
    state.map_or(Ok(vec![]), |loaded| loaded.account.decide(command.clone()))
}

/// Two nodes that met on one account step apart, further each time.
async fn back_off(conflicts: u32) {
    if conflicts > 0 {
        let most_us = 200 << conflicts.min(7);
        tokio::time::sleep(Duration::from_micros(rand::random_range(0..most_us))).await;
    }
}

impl Loaded {
    fn read(account: Account, sequence: u64, snapshot_sequence: u64) -> Self {
        Self { account, sequence, snapshot_sequence, ..Self::default() }
    }

    fn due_snapshot(&mut self) -> Result<Option<Snapshot>, serde_json::Error> {
        if self.sequence < self.snapshot_sequence + SNAPSHOT_EVERY {
            return Ok(None);
        }
        self.snapshot_sequence = self.sequence;
        Ok(Some(Snapshot { sequence: self.sequence, state: serde_json::to_value(&self.account)? }))
    }
}

impl Slot {
    /// Makes room for others, now and then. The caller holds the slot's lock, so that nothing starts meanwhile.
    async fn breathe(&self) {
        let busy_since = *self.busy_since.lock().unwrap_or_else(PoisonError::into_inner);
        if busy_since.is_some_and(|since| since.elapsed() > BREATHE_EVERY) {
            self.all_landed().await;
            tokio::time::sleep(BREATH).await;
        }
    }

    async fn all_landed(&self) {
        loop {
            let landed = self.landed.notified();
            tokio::pin!(landed);
            // Registered before the check, so that a landing between the two is not missed.
            landed.as_mut().enable();
            if self.in_flight.load(Ordering::Acquire) == 0 {
                return;
            }
            landed.await;
        }
    }
}

/// A unit on its way into the log. Dropped without having [`landed`](Self::landed), it leaves the slot stale: the
/// unit was refused, or nobody waited to see.
struct Flight {
    slot: Arc<Slot>,
    landed: bool,
}

impl Flight {
    fn start(slot: &Arc<Slot>) -> Self {
        if slot.in_flight.fetch_add(1, Ordering::AcqRel) == 0 {
            *slot.busy_since.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
        Self { slot: slot.clone(), landed: false }
    }

    fn landed(mut self) {
        self.landed = true;
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if !self.landed {
            self.slot.stale.store(true, Ordering::Release);
        }
        if self.slot.in_flight.fetch_sub(1, Ordering::AcqRel) == 1 {
            *self.slot.busy_since.lock().unwrap_or_else(PoisonError::into_inner) = None;
            self.slot.landed.notify_waiters();
        }
    }
}
