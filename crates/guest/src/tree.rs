//! The guest's tree: file systems mounted where its own table says, and paths that follow links inside it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{BufReader, Read};

use crate::fs::{Entry, FileSystem, FsError, Kind, Result, Stat};

/// Links followed for one path: as many as Linux follows.
const MAX_LINKS: usize = 40;
/// The longest path.
const MAX_PATH: usize = 4096;
/// Bytes of a file read at once when it is streamed.
const CHUNK: usize = 1 << 20;

/// Answers that are remembered.
const MAX_KNOWN: usize = 1 << 16;

/// A mounted file system.
struct Mount {
    /// Where: `/` or a path without a slash at its end.
    at: Vec<u8>,
    /// Index of its volume in the layout.
    volume: usize,
    fs: Box<dyn FileSystem>,
}

/// What the guest's programs would see.
#[derive(Default)]
pub struct Tree {
    mounts: Vec<Mount>,
    /// What physical paths are; none where nothing is. The rules ask for the same names for each place, and each
    /// answer costs a walk through the directories above.
    known: RefCell<HashMap<Vec<u8>, Option<Stat>>>,
    /// What links say.
    links: RefCell<HashMap<Vec<u8>, Vec<u8>>>,
}

impl Tree {
    /// Mounts a file system of volume `volume`. A later mount hides an earlier one at the same place.
    pub fn mount(&mut self, at: &str, volume: usize, fs: Box<dyn FileSystem>) {
        let at = normal(at.as_bytes());
        self.mounts.push(Mount { at, volume, fs });
        self.known.take();
        self.links.take();
        // The longest path first; of two at one place the later.
        self.mounts.sort_by_key(|mount| std::cmp::Reverse(mount.at.len()));
    }

    /// Index of the volume that holds a physical path.
    #[must_use]
    pub fn volume_of(&self, path: &[u8]) -> Option<usize> {
        self.covering(path).map(|(mount, _)| mount.volume)
    }

    /// Volumes mounted, with their places.
    pub fn mounts(&self) -> impl Iterator<Item = (&[u8], usize)> {
        self.mounts.iter().map(|mount| (mount.at.as_slice(), mount.volume))
    }

    /// The mount of a physical path and the path inside it.
    fn covering(&self, path: &[u8]) -> Option<(&Mount, Vec<u8>)> {
        self.mounts.iter().find_map(|mount| {
            if mount.at == b"/" {
                return Some((mount, path.to_vec()));
            }
            let rest = path.strip_prefix(mount.at.as_slice())?;
            match rest.first() {
                None => Some((mount, b"/".to_vec())),
                Some(b'/') => Some((mount, rest.to_vec())),
                Some(_) => None,
            }
        })
    }

    fn on<T>(&self, path: &[u8], work: impl FnOnce(&dyn FileSystem, &[u8]) -> Result<T>) -> Result<T> {
        let (mount, inside) = self.covering(path).ok_or(FsError::NotFound)?;
        work(mount.fs.as_ref(), &inside)
    }

    /// What a physical path is.
    fn stat_at(&self, path: &[u8]) -> Result<Stat> {
        if let Some(known) = self.known.borrow().get(path) {
            return known.ok_or(FsError::NotFound);
        }
        let stat = self.on(path, |fs, inside| fs.stat(inside));
        let answer = match &stat {
            Ok(stat) => Some(*stat),
            Err(FsError::NotFound) => None,
            Err(_) => return stat,
        };
        remember(&self.known, path, answer);
        stat
    }

    /// What the link at a physical path says.
    fn link_at(&self, path: &[u8]) -> Result<Vec<u8>> {
        if let Some(known) = self.links.borrow().get(path) {
            return Ok(known.clone());
        }
        let target = self.on(path, |fs, inside| fs.read_link(inside))?;
        remember(&self.links, path, target.clone());
        Ok(target)
    }

    /// The physical path that a path means: every link on the way is followed inside the tree; the last one only if
    /// `follow_last`. `..` above the root stays at the root. The last name need not exist.
    ///
    /// # Errors
    /// [`FsError`]; [`FsError::Links`] after 40 links, and for a path of more than 4096 bytes.
    pub fn resolve(&self, path: &[u8], follow_last: bool) -> Result<Vec<u8>> {
        if path.len() > MAX_PATH {
            return Err(FsError::Links);
        }
        let mut todo: Vec<Vec<u8>> = names(path).map(<[u8]>::to_vec).collect();
        todo.reverse();
        let (mut done, mut links) = (Vec::<Vec<u8>>::new(), 0_usize);
        while let Some(name) = todo.pop() {
            match name.as_slice() {
                b"." => continue,
                b".." => {
                    done.pop();
                    continue;
                }
                _ => done.push(name),
            }
            let here = joined(&done);
            if here.len() > MAX_PATH || todo.len() > MAX_PATH {
                return Err(FsError::Links);
            }
            if todo.is_empty() && !follow_last {
                break;
            }
            let kind = match self.stat_at(&here) {
                Ok(stat) => stat.kind,
                Err(FsError::NotFound) if todo.is_empty() => break,
                Err(error) => return Err(error),
            };
            if kind == Kind::Link {
                links = links.saturating_add(1);
                if links > MAX_LINKS {
                    return Err(FsError::Links);
                }
                let target = self.link_at(&here)?;
                done.pop();
                if target.first() == Some(&b'/') {
                    done.clear();
                }
                todo.extend(names(&target).map(<[u8]>::to_vec).collect::<Vec<_>>().into_iter().rev());
            }
        }
        Ok(joined(&done))
    }

    /// What a path is, links followed.
    ///
    /// # Errors
    /// [`FsError`].
    pub fn stat(&self, path: &str) -> Result<Stat> {
        let path = self.resolve(path.as_bytes(), true)?;
        self.stat_at(&path)
    }

    /// What a path itself is: a link stays a link.
    ///
    /// # Errors
    /// [`FsError`].
    pub fn stat_link(&self, path: &str) -> Result<Stat> {
        let path = self.resolve(path.as_bytes(), false)?;
        self.stat_at(&path)
    }

    /// What a link says.
    ///
    /// # Errors
    /// [`FsError`].
    pub fn read_link(&self, path: &str) -> Result<String> {
        let path = self.resolve(path.as_bytes(), false)?;
        Ok(crate::text::lossy(&self.link_at(&path)?))
    }

    /// Whether there is anything; an unreadable place counts as nothing.
    #[must_use]
    pub fn exists(&self, path: &str) -> bool {
        self.stat(path).is_ok()
    }

    /// Whether there is a name, even a link that leads nowhere.
    #[must_use]
    pub fn exists_link(&self, path: &str) -> bool {
        self.stat_link(path).is_ok()
    }

    /// The names in a directory, sorted.
    ///
    /// # Errors
    /// [`FsError`].
    pub fn list(&self, path: &str) -> Result<Vec<Entry>> {
        let path = self.resolve(path.as_bytes(), true)?;
        let mut entries = self.on(&path, |fs, inside| fs.list(inside))?;
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// The names in a directory with what each is, links as links, sorted; at most `limit` of them.
    ///
    /// # Errors
    /// [`FsError`].
    pub fn list_stat(&self, path: &str, limit: usize) -> Result<Vec<(Entry, Stat)>> {
        let path = self.resolve(path.as_bytes(), true)?;
        let mut entries = self.on(&path, |fs, inside| fs.list_stat(inside, limit))?;
        entries.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// The names in a directory as text, sorted; none when it is not there.
    #[must_use]
    pub fn names(&self, path: &str) -> Vec<String> {
        let entries = self.list(path).unwrap_or_default();
        entries.iter().map(|entry| crate::text::lossy(&entry.name)).collect()
    }

    /// All bytes of a file of at most `limit` bytes.
    ///
    /// # Errors
    /// [`FsError`]; [`FsError::TooLong`].
    pub fn read(&self, path: &str, limit: u64) -> Result<Vec<u8>> {
        let path = self.resolve(path.as_bytes(), true)?;
        let stat = self.stat_at(&path)?;
        if stat.kind != Kind::File {
            return Err(FsError::WrongKind);
        }
        if stat.len > limit {
            return Err(FsError::TooLong { len: stat.len, limit });
        }
        let mut bytes = vec![0; usize::try_from(stat.len).unwrap_or(0)];
        let read = self.on(&path, |fs, inside| fs.read(inside, 0, &mut bytes))?;
        bytes.truncate(read);
        Ok(bytes)
    }

    /// The first `len` bytes of a file, fewer when it is shorter.
    ///
    /// # Errors
    /// [`FsError`].
    pub fn head(&self, path: &str, len: usize) -> Result<Vec<u8>> {
        let path = self.resolve(path.as_bytes(), true)?;
        if self.stat_at(&path)?.kind != Kind::File {
            return Err(FsError::WrongKind);
        }
        let mut bytes = vec![0; len];
        let read = self.on(&path, |fs, inside| fs.read(inside, 0, &mut bytes))?;
        bytes.truncate(read);
        Ok(bytes)
    }

    /// `len` bytes from byte `at` of a file, fewer where it ends.
    ///
    /// # Errors
    /// [`FsError`].
    pub fn read_at(&self, path: &str, at: u64, len: usize) -> Result<Vec<u8>> {
        let path = self.resolve(path.as_bytes(), true)?;
        let stat = self.stat_at(&path)?;
        if stat.kind != Kind::File {
            return Err(FsError::WrongKind);
        }
        let left = usize::try_from(stat.len.saturating_sub(at)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; len.min(left)];
        let read = self.on(&path, |fs, inside| fs.read(inside, at, &mut bytes))?;
        bytes.truncate(read);
        Ok(bytes)
    }

    /// A text file of at most 1 MiB; `None` when it is not there or cannot be read.
    #[must_use]
    pub fn text(&self, path: &str) -> Option<String> {
        self.read(path, 1 << 20).ok().map(|bytes| crate::text::lossy(&bytes))
    }

    /// The bytes of a file, in order.
    ///
    /// # Errors
    /// [`FsError`].
    pub fn stream(&self, path: &str) -> Result<impl Read + '_> {
        let path = self.resolve(path.as_bytes(), true)?;
        let stat = self.stat_at(&path)?;
        if stat.kind != Kind::File {
            return Err(FsError::WrongKind);
        }
        Ok(BufReader::with_capacity(CHUNK, Stream { tree: self, path, at: 0, len: stat.len }))
    }
}

struct Stream<'a> {
    tree: &'a Tree,
    path: Vec<u8>,
    at: u64,
    len: u64,
}

impl Read for Stream<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let left = usize::try_from(self.len.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let end = buf.len().min(left);
        let Some(buf) = buf.get_mut(..end).filter(|buf| !buf.is_empty()) else { return Ok(0) };
        let read = self
            .tree
            .on(&self.path, |fs, inside| fs.read(inside, self.at, buf))
            .map_err(std::io::Error::other)?;
        self.at = self.at.saturating_add(u64::try_from(read).unwrap_or(0));
        Ok(read)
    }
}

fn remember<T>(known: &RefCell<HashMap<Vec<u8>, T>>, path: &[u8], answer: T) {
    let mut known = known.borrow_mut();
    if known.len() >= MAX_KNOWN {
        known.clear();
    }
    known.insert(path.to_vec(), answer);
}

fn names(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|name| !name.is_empty())
}

fn joined(names: &[Vec<u8>]) -> Vec<u8> {
    if names.is_empty() {
        return b"/".to_vec();
    }
    names.iter().fold(Vec::new(), |mut path, name| {
        path.push(b'/');
        path.extend_from_slice(name);
        path
    })
}

fn normal(path: &[u8]) -> Vec<u8> {
    joined(&names(path).map(<[u8]>::to_vec).collect::<Vec<_>>())
}
