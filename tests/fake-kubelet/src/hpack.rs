//! Writes HTTP/2 header blocks byte for byte as Go's encoder does (RFC 7541).
//!
//! A server's header decoder is part of what is tested, so the shape of the bytes matters: Huffman coding wherever it is
//! shorter, every field added to the dynamic table, and references to that table from the second request on.

/// Symbols of the Huffman code by code length in bits, ascending, up to 13 bits (RFC 7541, appendix B).
///
/// The code is canonical: a symbol's code is the one before it plus one, shifted where the length grows.
const CODE: [(u8, &[u8]); 8] = [
    (5, b"012aceiost"),
    (6, b" %-./3456789=A_bdfghlmnpru"),
    (7, b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz"),
    (8, b"&*,;XZ"),
    (10, b"!\"()?"),
    (11, b"'+|"),
    (12, b"#>"),
    (13, b"\0$@[]~"),
];

/// The static table's entries that a gRPC request uses: index, name, and value where the value matters.
const STATIC: [(u8, &str, &str); 6] = [
    (1, ":authority", ""),
    (3, ":method", "POST"),
    (4, ":path", "/"),
    (6, ":scheme", "http"),
    (31, "content-type", ""),
    (58, "user-agent", ""),
];

/// Index of the newest entry of the dynamic table.
const FIRST_DYNAMIC: usize = 62;

/// One connection's encoder. The dynamic table only grows: the few requests of a registration stay far below 4,096 bytes.
#[derive(Debug, Default)]
pub(crate) struct Encoder {
    /// Oldest first.
    dynamic: Vec<(String, String)>,
}

impl Encoder {
    /// Encodes the fields of one header block, in order.
    pub(crate) fn block(&mut self, fields: &[(&str, &str)]) -> Vec<u8> {
        let mut out = Vec::new();
        for (name, value) in fields {
            self.field(&mut out, name, value);
        }
        out
    }

    fn field(&mut self, out: &mut Vec<u8>, name: &str, value: &str) {
        if let Some((index, ..)) = STATIC.iter().find(|(_, n, v)| (*n, *v) == (name, value)) {
            integer(out, 0x80, 7, usize::from(*index));
            return;
        }
        let newest_first = || self.dynamic.iter().rev().enumerate();
        if let Some((age, _)) = newest_first().find(|(_, (n, v))| (n.as_str(), v.as_str()) == (name, value)) {
            integer(out, 0x80, 7, FIRST_DYNAMIC + age);
            return;
        }
        let known_name = STATIC.iter().find(|(_, n, _)| *n == name).map(|(index, ..)| usize::from(*index));
        let known_name =
            known_name.or_else(|| newest_first().find(|(_, (n, _))| n == name).map(|(age, _)| FIRST_DYNAMIC + age));
        integer(out, 0x40, 6, known_name.unwrap_or(0));
        if known_name.is_none() {
            string(out, name);
        }
        string(out, value);
        self.dynamic.push((name.to_owned(), value.to_owned()));
    }
}

/// An integer with a prefix of `bits` bits, in the octet that carries `flags` (RFC 7541, section 5.1).
fn integer(out: &mut Vec<u8>, flags: u8, bits: u8, value: usize) {
    let limit = (1_usize << bits) - 1;
    if value < limit {
        out.push(flags | low_byte(value));
        return;
    }
    out.push(flags | low_byte(limit));
    let mut rest = value - limit;
    while rest >= 0x80 {
        out.push(0x80 | low_byte(rest & 0x7f));
        rest >>= 7;
    }
    out.push(low_byte(rest));
}

/// A string literal, Huffman coded if that is shorter (RFC 7541, section 5.2).
fn string(out: &mut Vec<u8>, text: &str) {
    match huffman(text.as_bytes()) {
        Some(coded) if coded.len() < text.len() => {
            integer(out, 0x80, 7, coded.len());
            out.extend(coded);
        }
        _ => {
            integer(out, 0, 7, text.len());
            out.extend(text.as_bytes());
        }
    }
}

/// None if a symbol's code is longer than 13 bits; such text is sent as it is.
fn huffman(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let (mut pending, mut pending_bits) = (0_u64, 0_u8);
    for symbol in text {
        let (code, bits) = code_of(*symbol)?;
        pending = pending << bits | u64::from(code);
        pending_bits += bits;
        while pending_bits >= 8 {
            pending_bits -= 8;
            out.push(low_byte((pending >> pending_bits & 0xff) as usize));
            pending &= (1 << pending_bits) - 1;
        }
    }
    if pending_bits > 0 {
        let padding = 8 - pending_bits;
        out.push(low_byte(((pending << padding | ((1 << padding) - 1)) & 0xff) as usize));
    }
    Some(out)
}

fn code_of(symbol: u8) -> Option<(u16, u8)> {
    let (mut next, mut length) = (0_u16, CODE[0].0);
    for (bits, symbols) in CODE {
        next <<= bits - length;
        length = bits;
        for candidate in symbols {
            if *candidate == symbol {
                return Some((next, bits));
            }
            next += 1;
        }
    }
    None
}

#[expect(clippy::cast_possible_truncation, reason = "callers mask to one octet")]
fn low_byte(value: usize) -> u8 {
    value as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rfcs_examples_come_out_byte_for_byte() {
        // RFC 7541, C.4.1 and C.4.2: the same authority is a reference in the second request.
        let mut encoder = Encoder::default();
        let first = encoder.block(&[(":scheme", "http"), (":path", "/"), (":authority", "www.example.com")]);
        let authority = [0x41, 0x8c, 0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff];
        assert_eq!(first, [&[0x86, 0x84][..], &authority].concat());
        let second = encoder.block(&[(":authority", "www.example.com"), ("cache-control", "no-cache")]);
        assert_eq!(second[0], 0xbe);
    }

    #[test]
    fn the_longest_codes_are_the_rfcs() {
        assert_eq!(code_of(b'@'), Some((0x1ffa, 13)));
        assert_eq!(code_of(b'%'), Some((0x15, 6)));
        assert_eq!(code_of(b'Z'), Some((0xfd, 8)));
        assert_eq!(code_of(b'\\'), None);
    }

    #[test]
    fn an_integer_of_the_rfc_spreads_over_octets() {
        let mut out = Vec::new();
        integer(&mut out, 0, 5, 1337);
        assert_eq!(out, [31, 154, 10]);
    }
}
