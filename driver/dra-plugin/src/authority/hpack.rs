//! Finds `:authority` in an HPACK field block (RFC 7541) by lengths alone: no table and no Huffman decoder.
use std::ops::Range;

/// What the authority becomes.
const LOCAL: &[u8] = b"localhost";
/// The name when it is spelled out, plain and in the Huffman code.
const AUTHORITY: &[u8] = b":authority";
const AUTHORITY_HUFFMAN: &[u8] = b"\xb8\x3b\x53\x39\xec\x32\x7d\x7f";
/// The static table's entry for `:authority`.
const AUTHORITY_INDEX: usize = 1;
/// The longest code of the Huffman table, in bits: how few characters a coded string may stand for.
const LONGEST_CODE: usize = 30;

/// The block with each longer authority replaced by `localhost`; `None` if there is none or the block is malformed.
///
/// Only longer values are replaced. The receiver's dynamic table is then never fuller than the sender's, so that an entry
/// which the sender still refers to has not been evicted, and all indices mean the same on both sides.
pub(super) fn with_local_authority(block: &[u8]) -> Option<Vec<u8>> {
    let mut reader = Reader { block, at: 0 };
    let mut out = Vec::new();
    let mut copied = 0;
    while reader.at < block.len() {
        if let Some(value) = reader.field()? {
            out.extend_from_slice(&block[copied..value.start]);
            // The top bit clear: not Huffman-coded. Nine fits the seven bits of the length.
            out.push(LOCAL.len().to_le_bytes()[0]);
            out.extend_from_slice(LOCAL);
            copied = value.end;
        }
    }
    if copied == 0 {
        return None;
    }
    out.extend_from_slice(&block[copied..]);
    Some(out)
}

struct Reader<'a> {
    block: &'a [u8],
    at: usize,
}

/// A string literal: its bytes as sent, and where it lies with its length.
struct Literal<'a> {
    bytes: &'a [u8],
    huffman: bool,
    place: Range<usize>,
}

impl<'a> Reader<'a> {
    /// Steps over one representation (RFC 7541 §6); the place of its value if that is an authority to replace. The outer
    /// `None` means malformed.
    #[allow(clippy::option_option, reason = "malformed, and nothing to replace, are different answers")]
    fn field(&mut self) -> Option<Option<Range<usize>>> {
        let index_bits = match *self.block.get(self.at)? {
            // An indexed field, or a change of the table's size: no string follows.
            0x80.. => return self.integer(7).map(|_| None),
            0x20..0x40 => return self.integer(5).map(|_| None),
            0x40..0x80 => 6,
            _ => 4,
        };
        let is_authority = match self.integer(index_bits)? {
            0 => self.string()?.spells_authority(),
            index => index == AUTHORITY_INDEX,
        };
        let value = self.string()?;
        Some((is_authority && value.is_longer_than_local()).then_some(value.place))
    }

    fn string(&mut self) -> Option<Literal<'a>> {
        let start = self.at;
        let huffman = self.block.get(start)? & 0x80 != 0;
        let length = self.integer(7)?;
        let end = self.at.checked_add(length)?;
        let bytes = self.block.get(self.at..end)?;
        self.at = end;
        Some(Literal { bytes, huffman, place: start..end })
    }

    /// An integer whose first byte gives `bits` bits to it (RFC 7541 §5.1).
    fn integer(&mut self, bits: u32) -> Option<usize> {
        let most = (1_usize << bits) - 1;
        let first = usize::from(*self.block.get(self.at)?) & most;
        self.at += 1;
        if first < most {
            return Some(first);
        }
        let mut value = most;
        // Four further bytes hold any length that a frame can have; more is malformed or padding with zeros.
        for shift in [0, 7, 14, 21] {
            let byte = *self.block.get(self.at)?;
            self.at += 1;
            value = value.checked_add(usize::from(byte & 0x7f) << shift)?;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}

impl Literal<'_> {
    fn spells_authority(&self) -> bool {
        self.bytes == if self.huffman { AUTHORITY_HUFFMAN } else { AUTHORITY }
    }

    /// Whether the text is certainly longer than [`LOCAL`]; a coded one may then be a little longer than it need be.
    fn is_longer_than_local(&self) -> bool {
        let least =
            if self.huffman { (self.bytes.len() * 8).saturating_sub(7) / LONGEST_CODE } else { self.bytes.len() };
        least > LOCAL.len()
    }
}
