//! The tree of RFC 6962 (and RFC 9162, section 2.1) over the chain hashes of the log, position 1 being leaf 0.
//!
//! A chain alone needs every event between the one in question and the checkpoint; the tree needs one hash for each
//! doubling of the log. It is computed as the log is read, keeping one hash a level, so nothing of it has to be stored.
//! Its leaves are chain hashes, so that one proof covers an event and, by the chain, everything before it.

use sha2::{Digest, Sha256};

use crate::event_store::chain::Hash;

/// The tree so far, and the proof of one leaf if that was asked for.
#[derive(Debug, Clone, Default)]
pub struct MerkleTree {
    size: u64,
    /// The roots of the perfect subtrees, the largest first: one for each bit that is set in the size.
    peaks: Vec<Node>,
    proved: Option<u64>,
    /// The siblings of the proved leaf's ancestors, from below.
    path: Vec<Hash>,
}

#[derive(Debug, Clone, Copy)]
struct Node {
    hash: Hash,
    holds_proved: bool,
}

impl MerkleTree {
    /// Gathers the proof of the leaf with this index, from 0.
    pub fn proving(index: u64) -> Self {
        Self { proved: Some(index), ..Self::default() }
    }

    /// The tree of which [`frontier`](Self::frontier) gave this. `None` if no tree of that size can have.
    pub fn resume(size: u64, frontier: &[u8]) -> Option<Self> {
        let (peaks, rest) = frontier.as_chunks::<32>();
        if !rest.is_empty() || peaks.len() != size.count_ones() as usize {
            return None;
        }
        let peaks = peaks.iter().map(|hash| Node { hash: *hash, holds_proved: false }).collect();
        Some(Self { size, peaks, ..Self::default() })
    }

    pub fn frontier(&self) -> Vec<u8> {
        self.peaks.iter().flat_map(|peak| peak.hash).collect()
    }

    pub fn push(&mut self, chain_hash: &Hash) {
        let mut node = Node { hash: leaf(chain_hash), holds_proved: self.proved == Some(self.size) };
        let mut full = self.size;
        while full & 1 == 1
            && let Some(left) = self.peaks.pop()
        {
            node = join(left, node, &mut self.path);
            full >>= 1;
        }
        self.peaks.push(node);
        self.size += 1;
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn root(&self) -> Hash {
        self.clone().into_proof().0
    }

    /// The root, and the path to it from the proved leaf.
    pub fn into_proof(mut self) -> (Hash, Vec<Hash>) {
        let peaks = std::mem::take(&mut self.peaks);
        let root = peaks.into_iter().rev().reduce(|right, left| join(left, right, &mut self.path));
        (root.map_or_else(|| Sha256::new().finalize().into(), |root| root.hash), self.path)
    }
}

/// The root of the tree of `size` leaves in which `path` leads up from this leaf. `None` if it cannot.
pub fn root_of(chain_hash: &Hash, index: u64, size: u64, path: &[Hash]) -> Option<Hash> {
    let (mut node, mut last) = (index, size.checked_sub(1)?);
    if node > last {
        return None;
    }
    let mut hash = leaf(chain_hash);
    for sibling in path {
        if last == 0 {
            return None;
        }
        if node & 1 == 1 || node == last {
            hash = parent(sibling, &hash);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            hash = parent(&hash, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    (last == 0).then_some(hash)
}

fn join(left: Node, right: Node, path: &mut Vec<Hash>) -> Node {
    if left.holds_proved {
        path.push(right.hash);
    } else if right.holds_proved {
        path.push(left.hash);
    }
    Node { hash: parent(&left.hash, &right.hash), holds_proved: left.holds_proved || right.holds_proved }
}

fn leaf(chain_hash: &Hash) -> Hash {
    Sha256::new().chain_update([0]).chain_update(chain_hash).finalize().into()
}

fn parent(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(nth: u64) -> Hash {
        Sha256::digest(nth.to_be_bytes()).into()
    }

    /// As RFC 6962, section 2.1, defines it.
    fn defined(entries: &[Hash]) -> Hash {
        match entries {
            [] => Sha256::digest([]).into(),
            [one] => leaf(one),
            more => {
                let (left, right) = more.split_at(more.len().next_power_of_two() / 2);
                parent(&defined(left), &defined(right))
            }
        }
    }

    #[test]
    fn the_root_is_the_one_that_rfc_6962_defines_and_every_leaf_is_proved_by_its_path_alone() {
        for size in 0..=40_u64 {
            let entries: Vec<Hash> = (0..size).map(entry).collect();
            for index in 0..size {
                let mut tree = MerkleTree::proving(index);
                for hash in &entries {
                    tree.push(hash);
                }
                let (root, path) = tree.into_proof();
                assert_eq!(root, defined(&entries));
                let own = entries[usize::try_from(index).unwrap()];
                assert_eq!(root_of(&own, index, size, &path), Some(root));
                assert_ne!(root_of(&entry(size), index, size, &path), Some(root));
                for wrong in (0..=size).filter(|wrong| *wrong != index) {
                    assert_ne!(root_of(&own, wrong, size, &path), Some(root), "{wrong} of {size}");
                }
                assert_ne!(root_of(&own, index, size, &[path, vec![root]].concat()), Some(root));
            }
        }
    }

    #[test]
    fn a_tree_goes_on_from_its_frontier() {
        let (mut whole, mut resumed) = (MerkleTree::default(), MerkleTree::default());
        for nth in 0..300 {
            whole.push(&entry(nth));
            resumed = MerkleTree::resume(resumed.size(), &resumed.frontier()).unwrap();
            resumed.push(&entry(nth));
            assert_eq!(resumed.root(), whole.root());
        }
        assert!(MerkleTree::resume(299, &whole.frontier()).is_none());
        assert!(MerkleTree::resume(300, &whole.frontier()[1..]).is_none());
    }
}
