//! One kind of objects, as a watch lists and follows it.
use std::{collections::HashMap, hash::Hash};

/// What happens to a table.
#[derive(Debug)]
pub(crate) enum Change<K, V> {
    /// A list begins: what it doesn't have is gone when it ends.
    Begin,
    /// An object of the list; none where it is of no interest.
    Listed(K, Option<V>),
    /// The list ends.
    End,
    /// An object is there, or changed; none where it is of no interest any more.
    Put(K, Option<V>),
    /// An object is gone.
    Gone(K),
}

/// The objects of interest of one kind.
#[derive(Debug)]
pub(crate) struct Table<K, V> {
    entries: HashMap<K, V>,
    /// A list that has not ended.
    listing: Option<HashMap<K, V>>,
    is_complete: bool,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self { entries: HashMap::new(), listing: None, is_complete: false }
    }
}

impl<K: Eq + Hash, V> Table<K, V> {
    pub(crate) fn apply(&mut self, change: Change<K, V>) {
        match change {
            Change::Begin => self.listing = Some(HashMap::new()),
            Change::Listed(key, Some(value)) => {
                self.listing.get_or_insert_default().insert(key, value);
            }
            Change::Listed(_, None) => {}
            Change::End => {
                if let Some(listed) = self.listing.take() {
                    self.entries = listed;
                    self.entries.shrink_to_fit();
                }
                self.is_complete = true;
            }
            Change::Put(key, Some(value)) => {
                self.entries.insert(key, value);
            }
            Change::Put(key, None) | Change::Gone(key) => {
                self.entries.remove(&key);
            }
        }
    }

    /// Whether a list has ended once.
    pub(crate) fn is_complete(&self) -> bool {
        self.is_complete
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key)
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.entries.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_new_list_lacks_is_gone_only_when_the_list_has_ended() {
        let mut table = Table::default();
        for change in [Change::Begin, Change::Listed("a", Some(1)), Change::Listed("b", None), Change::End] {
            assert!(!table.is_complete());
            table.apply(change);
        }
        assert!(table.is_complete() && table.len() == 1);
        table.apply(Change::Put("c", Some(3)));
        table.apply(Change::Begin);
        table.apply(Change::Listed("c", Some(4)));
        assert_eq!((table.get(&"a"), table.get(&"c")), (Some(&1), Some(&3)));
        table.apply(Change::End);
        assert_eq!((table.get(&"a"), table.get(&"c")), (None, Some(&4)));
    }

    #[test]
    fn an_object_that_is_of_no_interest_any_more_is_dropped() {
        let mut table = Table::default();
        table.apply(Change::Put("a", Some(1)));
        table.apply(Change::Put("a", None));
        table.apply(Change::Put("b", Some(1)));
        table.apply(Change::Gone("b"));
        assert_eq!(table.len(), 0);
    }
}
