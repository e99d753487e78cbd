//! The adapter against arbitrary bytes, arbitrary chunks and blocks of a small independent encoder.
use proptest::{collection::vec, prelude::*};
use tokio::io::AsyncReadExt;

use super::*;

const KUBELETS: &[u8] = b"%2Fvar%2Flib%2Fkubelet%2Fplugins_registry%2Fgpu.example.com-reg.sock";

fn rewrite<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut rewriter = Rewriter::default();
    let mut out = Vec::new();
    for chunk in chunks {
        rewriter.feed(chunk, &mut out);
    }
    rewriter.finish(&mut out);
    out
}

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags, 0, 0, 0, 1]);
    frame.extend(payload);
    frame
}

fn connection(frames: &[Vec<u8>]) -> Vec<u8> {
    [PREFACE.to_vec(), frames.concat()].concat()
}

fn string(text: &[u8], huffman: bool) -> Vec<u8> {
    let mark = if huffman { 0x80 } else { 0 };
    let mut out = Vec::new();
    if text.len() < 127 {
        out.push(mark | u8::try_from(text.len()).unwrap());
    } else {
        out.push(mark | 127);
        let mut rest = text.len() - 127;
        while rest >= 128 {
            out.push(u8::try_from(rest % 128).unwrap() | 128);
            rest /= 128;
        }
        out.push(u8::try_from(rest).unwrap());
    }
    out.extend(text);
    out
}

/// The ways to write an authority: with the static index or the name, and with each kind of literal.
fn authority(form: u8, name: u8, value: &[u8], huffman: bool) -> Vec<u8> {
    match name {
        0 => [vec![form | 1], string(value, huffman)].concat(),
        1 => [vec![form], string(AUTHORITY, false), string(value, huffman)].concat(),
        _ => [vec![form], string(AUTHORITY_HUFFMAN, true), string(value, huffman)].concat(),
    }
}

const AUTHORITY: &[u8] = b":authority";
const AUTHORITY_HUFFMAN: &[u8] = b"\xb8\x3b\x53\x39\xec\x32\x7d\x7f";

/// A field block of which no part is a long authority.
fn others() -> impl Strategy<Value = Vec<u8>> {
    let field = prop_oneof![
        (0x81_u8..=0xfe).prop_map(|indexed| vec![indexed]),
        (0x20_u8..0x3f).prop_map(|table_size| vec![table_size]),
        (prop::sample::select(vec![0x00_u8, 0x10, 0x40]), 2_u8..15, vec(any::<u8>(), 0..300), any::<bool>())
            .prop_map(|(form, index, value, huffman)| [vec![form | index], string(&value, huffman)].concat()),
        (vec(any::<u8>(), 0..9), vec(any::<u8>(), 0..200)).prop_map(|(name, value)| [
            vec![0x40],
            string(&name, false),
            string(&value, false)
        ]
        .concat()),
        vec(any::<u8>(), 0..10).prop_map(|short| authority(0x40, 0, &short, false)),
    ];
    vec(field, 0..6).prop_map(|fields| fields.concat())
}

proptest! {
    #[test]
    fn arbitrary_bytes_come_out_the_same_however_they_are_cut(
        bytes in vec(any::<u8>(), 0..600), polite in any::<bool>(), cuts in vec(1_usize..40, 1..30),
    ) {
        let bytes = if polite { [PREFACE, &bytes].concat() } else { bytes };
        let mut chunks = Vec::new();
        let (mut rest, mut sizes) = (bytes.as_slice(), cuts.iter().cycle());
        while let (false, Some(size)) = (rest.is_empty(), sizes.next()) {
            let (chunk, later) = rest.split_at(rest.len().min(*size));
            chunks.push(chunk);
            rest = later;
        }
        prop_assert_eq!(rewrite(chunks), rewrite([bytes.as_slice()]));
    }

    #[test]
    fn what_is_not_http2_passes(bytes in vec(any::<u8>(), 0..200)) {
        prop_assume!(!bytes.starts_with(PREFACE));
        prop_assert_eq!(rewrite([bytes.as_slice()]), bytes);
    }

    #[test]
    fn other_frames_pass(frames in vec((prop_oneof![Just(0_u8), 2..12_u8], any::<u8>(), vec(any::<u8>(), 0..100)), 0..8)) {
        let bytes = connection(&frames.iter().map(|(kind, flags, load)| frame(*kind, *flags, load)).collect::<Vec<_>>());
        prop_assert_eq!(rewrite([bytes.as_slice()]), bytes);
    }

    #[test]
    fn headers_without_a_long_authority_pass(block in others()) {
        let bytes = connection(&[frame(1, 4, &block)]);
        prop_assert_eq!(rewrite([bytes.as_slice()]), bytes);
    }

    #[test]
    fn only_the_authority_changes(
        before in others(), after in others(), data in vec(any::<u8>(), 0..50),
        form in prop::sample::select(vec![0x00_u8, 0x10, 0x40]), name in 0_u8..3,
        value in vec(any::<u8>(), 40..400), huffman in any::<bool>(),
        padding in prop::option::of(0_u8..20), priority in any::<bool>(),
    ) {
        let built = |value: &[u8], huffman| {
            let mut load = Vec::new();
            load.extend(padding);
            if priority { load.extend([0, 0, 0, 0, 9]); }
            load.extend([&before[..], &authority(form, name, value, huffman), &after].concat());
            load.extend(vec![0; padding.unwrap_or_default().into()]);
            let flags = 4 | if padding.is_some() { 8 } else { 0 } | if priority { 32 } else { 0 };
            connection(&[frame(4, 0, &[]), frame(1, flags, &load), frame(0, 1, &data)])
        };
        let bytes = built(&value, huffman);
        prop_assert_eq!(rewrite([bytes.as_slice()]), built(b"localhost", false));
    }
}

#[test]
fn a_block_that_goes_on_in_another_frame_is_left_alone() {
    let bytes = connection(&[frame(1, 0, &authority(0x40, 0, KUBELETS, false)), frame(9, 4, &[0x83])]);
    assert_eq!(rewrite([bytes.as_slice()]), bytes);
}

#[test]
fn a_huffman_coded_value_that_may_be_short_is_left_alone() {
    let bytes = connection(&[frame(1, 4, &authority(0x40, 0, &[0xff; 38], true))]);
    assert_eq!(rewrite([bytes.as_slice()]), bytes);
}

#[test]
fn a_malformed_block_is_left_alone() {
    for mut block in [vec![0x41], vec![0x41, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], authority(0x40, 0, KUBELETS, false)] {
        block.extend([0x40, 0x7f]);
        let bytes = connection(&[frame(1, 4, &block)]);
        assert_eq!(rewrite([bytes.as_slice()]), bytes);
    }
}

#[test]
fn a_client_that_goes_away_within_a_frame_loses_nothing() {
    let bytes = connection(&[frame(1, 4, &authority(0x40, 0, KUBELETS, false))]);
    for end in 0..bytes.len() {
        assert_eq!(rewrite([&bytes[..end]]), bytes[..end]);
    }
}

#[tokio::test]
async fn a_reader_with_a_small_buffer_gets_everything_then_the_end() {
    let sent = connection(&[frame(1, 4, &authority(0x40, 0, KUBELETS, false)), frame(0, 1, &[7; 9000])]);
    let mut stream = LocalAuthority::new(sent.as_slice());
    let mut got = Vec::new();
    let mut small = [0; 7];
    loop {
        match stream.read(&mut small).await.unwrap() {
            0 => break,
            n => got.extend_from_slice(&small[..n]),
        }
    }
    assert_eq!(got, connection(&[frame(1, 4, &authority(0x40, 0, b"localhost", false)), frame(0, 1, &[7; 9000])]));
}
