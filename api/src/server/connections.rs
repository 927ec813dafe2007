//! How many connections there are, and which one has to go when another comes: whoever comes is let in as long as anybody
//! is there that asks for nothing. So those who open connections and say nothing push out each other, and nobody else.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio_util::sync::CancellationToken;

/// Where all of them ask for something: as many more, to be told that, and for whoever asks how the service is.
const BEYOND: usize = 64;

pub struct Connections {
    most: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    all: usize,
    /// Those that ask for nothing, in the order in which they began to.
    idle: HashMap<IpAddr, BTreeMap<u64, CancellationToken>>,
    next: u64,
}

/// One connection, until it is dropped.
pub struct Connection {
    pub address: IpAddr,
    /// Its place is somebody else's.
    pub has_to_go: CancellationToken,
    connections: Arc<Connections>,
    /// Its number among those that ask for nothing.
    idle: Mutex<Option<u64>>,
}

/// It asks for something, until this is dropped.
pub struct Busy(Arc<Connection>);

impl Connections {
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, state: Mutex::default() })
    }

    /// A connection from `address`; `None` where there is no room even for who is to be told so.
    pub fn accept(self: &Arc<Self>, address: IpAddr) -> Option<Arc<Connection>> {
        let mut state = self.state();
        if state.all >= self.most && !state.let_one_go() && state.all >= self.most + BEYOND {
            metrics::counter!("aihub_connections_refused_total").increment(1);
            return None;
        }
        state.all += 1;
        let has_to_go = CancellationToken::new();
        let idle = state.wait(address, has_to_go.clone());
        drop(state);
        Some(Arc::new(Connection { address, has_to_go, connections: self.clone(), idle: Mutex::new(Some(idle)) }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn wait(&mut self, address: IpAddr, has_to_go: CancellationToken) -> u64 {
        self.next += 1;
        self.idle.entry(address).or_default().insert(self.next, has_to_go);
        self.next
    }

    fn wait_no_more(&mut self, address: IpAddr, number: u64) {
        if let Some(of_address) = self.idle.get_mut(&address) {
            of_address.remove(&number);
            if of_address.is_empty() {
                self.idle.remove(&address);
            }
        }
    }

    /// The oldest that asks for nothing, of the address that has most of those.
    fn let_one_go(&mut self) -> bool {
        let Some((address, of_address)) = self.idle.iter().max_by_key(|(_, of_address)| of_address.len()) else {
            return false;
        };
        let (address, Some((number, has_to_go))) = (*address, of_address.first_key_value()) else { return false };
        metrics::counter!("aihub_connections_let_go_total").increment(1);
        has_to_go.cancel();
        let number = *number;
        self.wait_no_more(address, number);
        self.all -= 1;
        true
    }
}

impl Connection {
    /// It asks for something from now on, until the answer has been sent.
    pub fn busy(self: &Arc<Self>) -> Busy {
        if let Some(number) = self.idle.lock().unwrap_or_else(PoisonError::into_inner).take() {
            self.connections.state().wait_no_more(self.address, number);
        }
        Busy(self.clone())
    }

    /// There are more than there are to be.
    pub fn is_beyond(&self) -> bool {
        self.connections.state().all > self.connections.most
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let connection = &self.0;
        let number = connection.connections.state().wait(connection.address, connection.has_to_go.clone());
        *connection.idle.lock().unwrap_or_else(PoisonError::into_inner) = Some(number);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut state = self.connections.state();
        // One that had to go is not counted any more.
        if !self.has_to_go.is_cancelled() {
            state.all -= 1;
        }
        if let Some(number) = idle {
            state.wait_no_more(self.address, number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        [127, 0, 0, last].into()
    }

    #[test]
    fn whoever_comes_is_let_in_for_the_oldest_that_asks_for_nothing_of_the_address_that_has_most() {
        let connections = Connections::new(4);
        let ours = connections.accept(address(1)).unwrap();
        let theirs: Vec<_> = (0..3).map(|_| connections.accept(address(2)).unwrap()).collect();
        let more = connections.accept(address(3)).unwrap();
        assert!(!more.is_beyond());
        let gone: Vec<bool> = theirs.iter().map(|connection| connection.has_to_go.is_cancelled()).collect();
        assert_eq!((gone, ours.has_to_go.is_cancelled()), (vec![true, false, false], false));
        drop((theirs, ours, more));
        let state = connections.state();
        assert_eq!((state.all, state.idle.len()), (0, 0));
    }

    #[test]
    fn who_asks_for_something_keeps_the_connection_and_beyond_them_there_is_room_to_be_told() {
        let connections = Connections::new(2);
        let held: Vec<_> = (0..2).map(|_| connections.accept(address(1)).unwrap()).collect();
        let busy: Vec<_> = held.iter().map(Connection::busy).collect();
        let beyond: Vec<_> = (0..3 * BEYOND).map(|_| connections.accept(address(2)).unwrap()).collect();
        assert!(beyond.last().unwrap().is_beyond());
        assert_eq!(
            beyond.iter().filter(|one| !one.has_to_go.is_cancelled()).count(),
            1,
            "each comes for the one before"
        );
        let asking: Vec<_> =
            (1..BEYOND).map(|_| connections.accept(address(2)).unwrap()).map(|one| one.busy()).collect();
        drop(beyond);
        let last = connections.accept(address(3)).unwrap().busy();
        assert!(connections.accept(address(3)).is_none());
        drop((asking, busy, last));
        assert!(connections.accept(address(3)).is_some_and(|one| !one.is_beyond()));
    }
}
