//! Publishes what a node offers as ResourceSlices and keeps them so.
