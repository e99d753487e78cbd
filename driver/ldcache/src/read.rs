//! Reads a cache; nothing in it is believed before it was checked.
use super::LARGEST;

const OLD: &[u8; 11] = b"ld.so-1.7.0";
pub(crate) const NEW: &[u8; 20] = b"glibc-ld.so.cache1.1";
/// `struct cache_file`, and `struct file_entry` behind it.
const OLD_HEADER: usize = 16;
const OLD_ENTRY: usize = 12;
/// `struct cache_file_new`, and `struct file_entry_new` behind it.
pub(crate) const HEADER: usize = 48;
pub(crate) const ENTRY: usize = 24;
/// In `hwcap`: its low half counts into the list of `glibc-hwcaps` subdirectories (`DL_CACHE_HWCAP_EXTENSION`).
pub(crate) const BY_SUBDIRECTORY: u64 = 1 << 62;
pub(crate) const EXTENSION: u32 = 0xeaa4_2174;
pub(crate) const TAG_SUBDIRECTORIES: u32 = 1;
/// As many extensions as are looked at; glibc knows two.
const MOST_EXTENSIONS: usize = 16;

/// Why a cache isn't touched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is larger than any that is read.
    #[error("the loader's cache is larger than {LARGEST} bytes")]
    Large,
    /// It is of another kind: of a glibc before 2.3, another loader, or another byte order.
    #[error("the loader's cache has a format that isn't known")]
    Format,
    /// It contradicts itself.
    #[error("the loader's cache is damaged: {0}")]
    Damaged(&'static str),
}

/// What a cache holds, in its order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Cache<'a> {
    pub(crate) entries: Vec<Entry<'a>>,
    /// The names of `glibc-hwcaps` subdirectories, by which entries are chosen.
    pub(crate) subdirectories: Vec<&'a [u8]>,
}

/// One library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry<'a> {
    pub(crate) flags: i32,
    pub(crate) name: &'a [u8],
    pub(crate) path: &'a [u8],
    pub(crate) os_version: u32,
    pub(crate) hwcap: u64,
}

impl<'a> Cache<'a> {
    pub(crate) fn read(file: &'a [u8]) -> Result<Self, Error> {
        if file.len() > LARGEST {
            return Err(Error::Large);
        }
        let start = if file.starts_with(OLD) { behind_old(file)? } else { 0 };
        // Strings are counted from here, extensions from the file's beginning.
        let new = file.get(start..).unwrap_or_default();
        if !new.starts_with(NEW) || !matches!(new.get(28), Some(0 | 2)) {
            return Err(Error::Format);
        }
        let count = u32_at(new, 20).ok_or(Error::Damaged("it ends in its header"))? as usize;
        let extensions = u32_at(new, 32).ok_or(Error::Damaged("it ends in its header"))? as usize;
        let end = count.checked_mul(ENTRY).and_then(|length| length.checked_add(HEADER));
        let table = end.and_then(|end| new.get(HEADER..end)).ok_or(Error::Damaged("it ends in its list"))?;
        let entries = table.chunks_exact(ENTRY).map(|entry| read_entry(new, entry)).collect::<Result<Vec<_>, _>>()?;
        let subdirectories = if extensions == 0 { Vec::new() } else { read_subdirectories(file, new, extensions)? };
        let known = |entry: &Entry<'_>| {
            entry.hwcap & BY_SUBDIRECTORY == 0
                || usize::try_from(entry.hwcap & 0xffff_ffff).is_ok_and(|at| at < subdirectories.len())
        };
        if !entries.iter().all(known) {
            return Err(Error::Damaged("an entry is for hardware that it doesn't name"));
        }
        Ok(Self { entries, subdirectories })
    }
}

/// Where the newer block begins, behind an older one.
fn behind_old(file: &[u8]) -> Result<usize, Error> {
    let count = u32_at(file, 12).ok_or(Error::Damaged("it ends in its header"))? as usize;
    let end = count.checked_mul(OLD_ENTRY).and_then(|length| length.checked_add(OLD_HEADER));
    let end = end.filter(|end| *end <= file.len()).ok_or(Error::Damaged("it ends in its older list"))?;
    Ok(end.next_multiple_of(8))
}

fn read_entry<'a>(new: &'a [u8], entry: &[u8]) -> Result<Entry<'a>, Error> {
    let field = |at| u32_at(entry, at).ok_or(Error::Damaged("it ends in its list"));
    Ok(Entry {
        flags: field(0)?.cast_signed(),
        name: string(new, field(4)?)?,
        path: string(new, field(8)?)?,
        os_version: field(12)?,
        hwcap: u64::from(field(16)?) | u64::from(field(20)?) << 32,
    })
}

fn read_subdirectories<'a>(file: &'a [u8], new: &'a [u8], at: usize) -> Result<Vec<&'a [u8]>, Error> {
    let damaged = Error::Damaged("its extensions are outside of it");
    let block = file.get(at..).ok_or(damaged.clone())?;
    let (magic, count) = (u32_at(block, 0), u32_at(block, 4));
    if magic != Some(EXTENSION) {
        return Err(Error::Damaged("its extensions are none"));
    }
    let count = count.map_or(0, |count| count as usize);
    if count > MOST_EXTENSIONS {
        return Err(Error::Damaged("it has more extensions than there are"));
    }
    let mut names = Vec::new();
    for section in 0..count {
        let at = 8 + 16 * section;
        let fields = (u32_at(block, at), u32_at(block, at + 8), u32_at(block, at + 12));
        let (Some(tag), Some(offset), Some(size)) = fields else { return Err(damaged) };
        let (offset, size) = (offset as usize, size as usize);
        let content = offset.checked_add(size).and_then(|end| file.get(offset..end)).ok_or(damaged.clone())?;
        if tag == TAG_SUBDIRECTORIES {
            for name in content.chunks_exact(4) {
                names.push(string(new, u32_at(name, 0).unwrap_or_default())?);
            }
        }
    }
    Ok(names)
}

/// The text at an offset, without the NUL that ends it.
fn string(new: &[u8], at: u32) -> Result<&[u8], Error> {
    let rest = new.get(at as usize..).ok_or(Error::Damaged("a name is outside of it"))?;
    let end = rest.iter().position(|byte| *byte == 0).ok_or(Error::Damaged("a name has no end"))?;
    Ok(&rest[..end])
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk::<4>()?;
    Some(u32::from_le_bytes(*bytes))
}
