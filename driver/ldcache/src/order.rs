//! The order in which the loader's binary search expects names: digits count as numbers (`_dl_cache_libcmp` of glibc).
use std::cmp::Ordering;

use super::Machine;

/// Compares two names as the loader does.
pub(crate) fn compare(a: &[u8], b: &[u8], machine: Machine) -> Ordering {
    let (mut a, mut b) = (a, b);
    loop {
        match (a.split_first(), b.split_first()) {
            (None, None) => return Ordering::Equal,
            (None, Some((b, _))) => return char(0, machine).cmp(&char(*b, machine)),
            (Some((x, rest)), y) => {
                let y = y.map_or(0, |(y, _)| *y);
                match (x.is_ascii_digit(), y.is_ascii_digit()) {
                    (true, true) => match number(&mut a).cmp(&number(&mut b)) {
                        Ordering::Equal => {}
                        unequal => return unequal,
                    },
                    (true, false) => return Ordering::Greater,
                    (false, true) => return Ordering::Less,
                    (false, false) if *x != y => return char(*x, machine).cmp(&char(y, machine)),
                    (false, false) => {
                        a = rest;
                        b = b.get(1..).unwrap_or_default();
                    }
                }
            }
        }
    }
}

/// C's `char` has a sign on x86.
fn char(byte: u8, machine: Machine) -> i32 {
    match machine {
        Machine::X86_64 => i32::from(byte.cast_signed()),
        Machine::Aarch64 => i32::from(byte),
    }
}

/// Takes the digits off the front.
fn number(text: &mut &[u8]) -> i32 {
    let mut value = 0i32;
    while let Some((digit, rest)) = text.split_first().filter(|(digit, _)| digit.is_ascii_digit()) {
        value = value.wrapping_mul(10).wrapping_add(i32::from(digit - b'0'));
        *text = rest;
    }
    value
}
