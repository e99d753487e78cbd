//! Container Device Interface specs: types one can construct, their rules, and an atomic store.
