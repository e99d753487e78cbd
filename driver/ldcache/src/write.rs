//! Writes a cache as glibc 2.32 and later do: one block, little-endian.
use std::collections::HashMap;

use super::read::{Cache, ENTRY, EXTENSION, HEADER, NEW, TAG_SUBDIRECTORIES};

/// In the header: little-endian (`cache_file_new_flags_endian_little`).
const LITTLE_ENDIAN: u8 = 2;

/// Texts one after the other, each once, with offsets from the beginning of the cache.
struct Strings<'a> {
    begin: usize,
    bytes: Vec<u8>,
    known: HashMap<&'a [u8], u32>,
}

impl<'a> Strings<'a> {
    fn at(&mut self, text: &'a [u8]) -> u32 {
        if let Some(at) = self.known.get(text) {
            return *at;
        }
        // What is written is at most as long as what was read, and a few entries more.
        let at = u32::try_from(self.begin + self.bytes.len()).unwrap_or(u32::MAX);
        self.bytes.extend_from_slice(text);
        self.bytes.push(0);
        self.known.insert(text, at);
        at
    }
}

pub(crate) fn write(cache: &Cache<'_>) -> Vec<u8> {
    let length = |count: usize| u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes();
    let begin = HEADER + ENTRY * cache.entries.len();
    let mut strings = Strings { begin, bytes: Vec::new(), known: HashMap::new() };
    let mut table = Vec::with_capacity(ENTRY * cache.entries.len());
    for entry in &cache.entries {
        table.extend_from_slice(&entry.flags.to_le_bytes());
        table.extend_from_slice(&strings.at(entry.name).to_le_bytes());
        table.extend_from_slice(&strings.at(entry.path).to_le_bytes());
        table.extend_from_slice(&entry.os_version.to_le_bytes());
        table.extend_from_slice(&entry.hwcap.to_le_bytes());
    }
    let subdirectories: Vec<u8> = cache.subdirectories.iter().flat_map(|name| strings.at(name).to_le_bytes()).collect();
    let strings = strings.bytes;
    let padding = (begin + strings.len()).next_multiple_of(4) - (begin + strings.len());
    let extensions = if subdirectories.is_empty() { 0 } else { begin + strings.len() + padding };

    let mut file = Vec::with_capacity(begin + strings.len() + padding + 32 + subdirectories.len());
    file.extend_from_slice(NEW);
    file.extend_from_slice(&length(cache.entries.len()));
    file.extend_from_slice(&length(strings.len()));
    file.extend_from_slice(&[LITTLE_ENDIAN, 0, 0, 0]);
    file.extend_from_slice(&length(extensions));
    file.extend_from_slice(&[0; 12]);
    file.extend_from_slice(&table);
    file.extend_from_slice(&strings);
    if extensions > 0 {
        file.extend(std::iter::repeat_n(0, padding));
        for number in [EXTENSION, 1, TAG_SUBDIRECTORIES, 0] {
            file.extend_from_slice(&number.to_le_bytes());
        }
        file.extend_from_slice(&length(extensions + 24));
        file.extend_from_slice(&length(subdirectories.len()));
        file.extend_from_slice(&subdirectories);
    }
    file
}
