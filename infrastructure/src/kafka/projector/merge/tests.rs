use proptest::prelude::*;

use super::*;
use crate::event_store::chain::Hash;

fn event(position: u64) -> RecordedEvent {
    RecordedEvent {
        position,
        recorded_at: chrono::DateTime::UNIX_EPOCH,
        aggregate_type: String::new(),
        aggregate_id: String::new(),
        sequence: 1,
        event_type: String::new(),
        event_version: String::new(),
        payload: "x".repeat(10),
        metadata: String::new(),
        command_id: None,
        leaf_hash: Hash::default(),
        chain_hash: Hash::default(),
    }
}

/// Reads the partitions as the projector does, from `next` and `offsets` on, until all of them are at their end or
/// have to be read again. `hurry` has partitions answer late.
fn read(
    partitions: &[Vec<u64>],
    next: u64,
    offsets: &[i64],
    limit: ReadLimit,
    hurry: &mut impl FnMut() -> bool,
) -> (Vec<u64>, Vec<i64>) {
    let mut merge = Merge::new(next, offsets.iter().copied(), limit);
    let mut at: Vec<usize> = offsets.iter().map(|offset| usize::try_from(*offset).unwrap()).collect();
    let mut taken = Vec::new();
    loop {
        let mut ready = None;
        for source in merge.by_position() {
            if hurry() || at[source] >= partitions[source].len() {
                ready = Some(source);
                if at[source] < partitions[source].len() {
                    break;
                }
                merge.ends(source);
            }
        }
        if let Some(source) = ready.filter(|source| at[*source] < partitions[*source].len()) {
            let offset = i64::try_from(at[source]).unwrap();
            merge.offer(source, offset, Some(event(partitions[source][at[source]])));
            at[source] += 1;
        }
        assert!(merge.held.len() <= limit.events as usize);
        assert_eq!(merge.held_bytes, merge.held.len() * 10);
        taken.extend(merge.take_run(ReadLimit { events: 3, bytes: 1 << 20 }).iter().map(|event| event.position));
        if merge.must_read_again() || merge.is_at_end() {
            taken.extend(merge.take_run(limit).iter().map(|event| event.position));
            return (taken, merge.offsets());
        }
    }
}

proptest! {
    /// Whatever stands in which partition, in whichever order and how often: each position comes once, in order, also
    /// when the reader begins again from the offsets it kept, and with little room.
    #[test]
    fn any_interleaving_with_duplicates_becomes_the_log(
        placed in prop::collection::vec((0_usize..4, 0_u64..30, prop::bool::weighted(0.3)), 1..120),
        room in 1_u32..40,
        late in prop::collection::vec(any::<bool>(), 1..50),
    ) {
        // Position n goes to a partition, up to 30 places away from where it belongs, and maybe twice.
        let mut partitions = vec![Vec::new(); 4];
        for (position, (partition, delay, twice)) in (1..).zip(&placed) {
            partitions[*partition].push((position + delay, position));
            if *twice {
                partitions[*partition].push((position + 2 * delay, position));
            }
        }
        let partitions: Vec<Vec<u64>> = partitions
            .into_iter()
            .map(|mut partition| {
                partition.sort_unstable();
                partition.into_iter().map(|(_, position)| position).collect()
            })
            .collect();
        let limit = ReadLimit { events: room, bytes: 1 << 20 };
        let mut nth = 0;
        let mut hurry = move || {
            nth += 1;
            // Not for ever late.
            late[nth % late.len()] || nth % 7 == 0
        };
        let (mut next, mut offsets, mut taken) = (1, vec![0; 4], Vec::new());
        for _ in 0..=2 * placed.len() {
            let (more, kept) = read(&partitions, next, &offsets, limit, &mut hurry);
            taken.extend(more);
            next = taken.len() as u64 + 1;
            offsets = kept;
        }
        prop_assert_eq!(taken, (1..=placed.len() as u64).collect::<Vec<_>>());
    }
}

#[test]
fn a_kept_offset_is_never_behind_an_event_that_was_not_taken() {
    let mut merge = Merge::new(1, [0, 0], HELD);
    merge.offer(0, 0, Some(event(2)));
    merge.offer(0, 1, Some(event(4)));
    merge.offer(1, 0, Some(event(1)));
    merge.offer(1, 1, None);
    assert_eq!(merge.take_run(HELD).len(), 2);
    assert_eq!((merge.next(), merge.lowest_held(), merge.offsets()), (3, Some(4), vec![1, 2]));
}

#[test]
fn what_is_furthest_ahead_is_let_go_and_read_again() {
    let mut merge = Merge::new(1, [0, 0], ReadLimit { events: 2, bytes: 1 << 20 });
    for (offset, position) in [(0, 5), (1, 4), (2, 3)] {
        merge.offer(0, offset, Some(event(position)));
    }
    assert_eq!((merge.lowest_held(), merge.offsets()), (Some(3), vec![0, 0]));
    assert!(!merge.must_read_again(), "there is no room yet");
    merge.offer(1, 0, Some(event(1)));
    merge.offer(1, 1, Some(event(2)));
    assert_eq!(merge.take_run(HELD).iter().map(|event| event.position).collect::<Vec<_>>(), [1, 2]);
    assert!(merge.must_read_again());
    assert_eq!(merge.offsets(), [0, 2]);
}
