//! A stand-in for the scheduler.
