//! The side of the drain and of readers: everything is checked, nothing is believed. Allocates and may
//! block on the directory; not for signal handlers.

use super::lock::DrainLock;
use super::{
    ChannelPaths, ClockFacts, HEADER_LEN, ID_LEN, Identity, Kind, Stem, check_head, decode_ring_header, get,
    parse_temp, put,
};
use crate::error::{Code, Error, Result};
use crate::lane::calibration::Calibration;
use crate::layout::ring::{Geometry, id};
use crate::layout::{ARCH, LAYOUT_VERSION, PAGE, ctl, spill};
use crate::sync::AtomicU64;
use crate::sys::file::{self, Access, Stat};
use crate::sys::lease::{LeaseAnswer, can_nobody_write};
use crate::sys::process::{self, Facts, Fate};
use crate::sys::watch::{Watch, Watched};
use crate::sys::{Errno, Fd, FileId, FixedPath, Map, time};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

/// As what a process opens a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It logs, or reads only: maps what is the drain's read-only.
    Producer,
    /// It drains: maps `ctl` and acks read-write.
    Drain,
}

/// An open channel.
#[derive(Debug)]
pub struct Channel {
    paths: ChannelPaths,
    ctl: Map,
    role: Role,
    warning: Option<String>,
}

/// What became of a ring's writers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dead {
    /// Nobody is left who could write it. Make one more full pass before acting on it: the writer may have
    /// published between the last read and its death.
    Yes,
    /// Somebody is, or seems to be.
    No,
    /// No lease can be asked for, and everything else says dead: take the records, skip no hole, unlink
    /// nothing without an operator's command.
    Probably,
    /// It can't be told from here. Treat it as alive.
    Unknown,
}

/// What [`Channel::sweep`] did.
#[derive(Debug, Default)]
pub struct Swept {
    /// Names taken away: left by makers that died before they had made a ring, or by a drain that died while
    /// it took one away.
    pub removed: Vec<PathBuf>,
    /// Files without a ring whose maker may still be there, or can't be told.
    pub kept: Vec<PathBuf>,
}

fn widen(what: &Path, e: Errno) -> Error {
    match e.0 {
        libc::EWOULDBLOCK => Error {
            code: Code::WouldBlock,
            message: format!("{}: somebody holds a lease on it: try again", what.display()),
            errno: Some(e.0),
        },
        libc::ELOOP | libc::EINVAL | libc::ENXIO | libc::EISDIR => Error {
            code: Code::BadFile,
            message: format!("{} is not a regular file: remove it", what.display()),
            errno: Some(e.0),
        },
        _ => Error::os(what.display(), e.into()),
    }
}

fn bad(path: &Path, what: impl std::fmt::Display) -> Error {
    Error::new(Code::BadFile, format!("{} {what}: move it out of the channel's directory", path.display()))
}

impl Channel {
    /// Opens the channel in `dir`, an absolute or relative path; with `create`, makes what is missing.
    /// Any number of processes may do so at a time.
    ///
    /// # Errors
    /// NoChannel: it is not there, and `create` is false. Permission: it is not this user's, or everybody may
    /// write there. BadFile, Version, Arch: its `ctl` is not one that this program can use.
    pub fn create_or_open(dir: &Path, create: bool, role: Role) -> Result<Channel> {
        let paths = ChannelPaths::new(dir, false)?;
        let dir = paths.dir().to_path();
        if create {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&dir)
                .map_err(|e| Error::os(format_args!("creating the channel {}", dir.display()), e))?;
        }
        let st = match file::stat(paths.dir().as_c(), false) {
            Ok(st) => st,
            Err(Errno(libc::ENOENT | libc::ENOTDIR)) => return Err(no_channel(&dir)),
            Err(e) => return Err(widen(&dir, e)),
        };
        check_directory(&dir, &st, role)?;
        let paths = ChannelPaths { group: st.mode & 0o020 != 0, ..paths };
        let fs = file::statfs(paths.dir().as_c()).map_err(|e| widen(&dir, e))?;
        let warning = (!fs.in_memory()).then(|| {
            format!(
                "{} is not in memory (tmpfs): a log call may wait for its disk there; \
                 name another place by SPILLRING_DIR",
                dir.display()
            )
        });
        if create {
            create_ctl(&paths)?;
        }
        let ctl = open_ctl(&paths, role, create)?;
        Ok(Channel { paths, ctl, role, warning })
    }

    /// Where its files are.
    pub fn paths(&self) -> &ChannelPaths {
        &self.paths
    }

    /// `ctl`, read-write for [`Role::Drain`] only.
    pub fn ctl(&self) -> &Map {
        &self.ctl
    }

    /// Has a drain that sleeps look now. One that is just falling asleep may miss it.
    pub fn wake_drain(&self) {
        super::wake_drain(self.ctl.word32(ctl::SLEEP));
    }

    /// The clock calibration in `ctl`. Writing it takes [`Role::Drain`], and being the channel's drain.
    pub fn calibration(&self) -> Calibration<'_, AtomicU64> {
        let w = |at| self.ctl.word(at);
        Calibration {
            seq: w(ctl::CAL_SEQ),
            ticks: w(ctl::CAL_TICKS),
            utc: w(ctl::CAL_UTC),
            mult: w(ctl::CAL_MULT),
        }
    }

    /// `ctl` for the life of the process, whatever becomes of this value: what a log call reads.
    pub fn into_paths_and_ctl(self) -> (ChannelPaths, Map) {
        (self.paths, self.ctl)
    }

    /// One line for the user, if the channel works but not well.
    pub fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    /// Becomes the drain of this channel, or says who is. See [`DrainLock`].
    ///
    /// # Errors
    /// DrainRunning.
    pub fn lock_drain(&self) -> Result<DrainLock<'_>> {
        if self.role != Role::Drain {
            return Err(Error::new(Code::BadValue, "the channel was not opened to be drained"));
        }
        DrainLock::take(self)
    }

    /// The producers that have a ring here, in no order.
    pub fn producers(&self) -> Result<Vec<Stem>> {
        let mut stems = Vec::new();
        self.each_name(|name| {
            stems.extend(Stem::of_ring(name));
        })?;
        Ok(stems)
    }

    /// Is told of new rings; `None`: nobody tells of them here.
    pub fn watch(&self) -> Option<Watch> {
        let watch = Watch::new().ok()?;
        watch.names(self.paths.dir()).ok()?;
        Some(watch)
    }

    fn each_name(&self, mut f: impl FnMut(&[u8])) -> Result<()> {
        let dir = self.paths.dir().to_path();
        let err = |e| Error::os(dir.display(), e);
        for entry in std::fs::read_dir(&dir).map_err(err)? {
            f(entry.map_err(err)?.file_name().as_bytes());
        }
        Ok(())
    }

    /// Opens and validates the three files of a producer; the ack to be written for [`Role::Drain`] only.
    ///
    /// # Errors
    /// WouldBlock: look again later. BadFile, Version, Arch: it can't be read, the message says why. Os with
    /// ENOENT: it is gone, or not complete.
    pub fn open_ring(&self, stem: Stem) -> Result<RingView> {
        RingView::open(&self.paths, stem, self.role)
    }

    /// Removes the ring of a dead producer whose ack or spill is gone: both are complete before a ring is
    /// published and are unlinked first, so all of it had been delivered (or it was never attached), and
    /// whoever unlinked it died before it was done. True: it is gone.
    pub fn remove_remains(&self, stem: Stem) -> bool {
        let gone = |kind| {
            self.paths
                .file(stem, kind)
                .is_ok_and(|p| file::stat(p.as_c(), false).err() == Some(Errno(libc::ENOENT)))
        };
        let Ok(ring) = self.paths.file(stem, Kind::Ring) else { return false };
        let Ok((fd, _)) = file::open_foreign(&ring, Access::Read) else { return false };
        can_nobody_write(fd.raw()) == LeaseAnswer::Granted
            && (gone(Kind::Ack) || gone(Kind::Spill))
            && [Kind::Spill, Kind::Ack, Kind::Ring]
                .into_iter()
                .all(|k| gone(k) || self.paths.file(stem, k).is_ok_and(|p| file::unlink(&p).is_ok()))
    }

    /// Takes away what dead makers have left: temporary files, and acks and spills without a ring. Only
    /// for the drain of the channel (the other half of a removal may be its own).
    pub fn sweep(&self, me: &Facts) -> Result<Swept> {
        let mut swept = Swept::default();
        let mut names = Vec::new();
        self.each_name(|name| names.push(name.to_vec()))?;
        for name in names {
            let Ok(path) = self.paths.dir().join(&name) else { continue };
            let stale = if let Some(maker) = parse_temp(&name) {
                nobody_makes(&path, me, &maker)
            } else if let Some((stem, kind)) = orphan(&name) {
                let Ok(ring) = self.paths.file(stem, Kind::Ring) else { continue };
                let ringless = || file::stat(ring.as_c(), false).err() == Some(Errno(libc::ENOENT));
                if !ringless() {
                    continue;
                }
                // Asked again after death is established: it may have been published meanwhile.
                let dead = match head_of(&path, kind, stem) {
                    Some(who) => nobody_makes(&path, me, &who.facts),
                    None => Some(false),
                };
                dead.map(|d| d && ringless())
            } else {
                continue;
            };
            match stale {
                Some(true) if file::unlink(&path).is_ok() => swept.removed.push(path.to_path()),
                Some(_) => swept.kept.push(path.to_path()),
                None => {}
            }
        }
        Ok(swept)
    }
}

fn no_channel(dir: &Path) -> Error {
    let help = "start a drain for it (spillring drain), or name another channel";
    Error {
        code: Code::NoChannel,
        message: format!("there is no channel at {}: {help}", dir.display()),
        errno: Some(libc::ENOENT),
    }
}

/// A directory that a stranger can write, or could exchange, is none to log into.
fn check_directory(dir: &Path, st: &Stat, role: Role) -> Result<()> {
    let at = dir.display();
    if !st.is_dir() {
        let what = "is not a directory (a link does not count): remove it, or name another channel";
        return Err(Error::new(Code::BadFile, format!("{at} {what}")));
    }
    if st.mode & 0o002 != 0 {
        return Err(Error::new(
            Code::Permission,
            format!("everybody may write in {at}: chmod o-w {at}, or name another channel"),
        ));
    }
    let me = process::euid();
    // root may drain anybody's channel, since it checks and guards what it reads there; it does not log there.
    if role == Role::Drain && me == 0 {
        return Ok(());
    }
    let strange = |uid| uid != me && uid != 0;
    if strange(st.uid) && st.mode & 0o020 == 0 {
        return Err(Error::new(
            Code::Permission,
            format!("{at} belongs to uid {}, not to uid {me}: name another channel", st.uid),
        ));
    }
    if let Some(parent) = dir.parent()
        && let Ok(p) = FixedPath::from_bytes(parent.as_os_str().as_bytes())
        && let Ok(pst) = file::stat(if p.as_bytes().is_empty() { c"/" } else { p.as_c() }, true)
        && strange(pst.uid)
        && pst.uid != st.uid
    {
        return Err(Error::new(
            Code::Permission,
            format!("{} belongs to uid {}: name another place", parent.display(), pst.uid),
        ));
    }
    Ok(())
}

/// The content of a new `ctl`.
pub(super) fn ctl_bytes() -> Vec<u8> {
    let mut b = vec![0; ctl::LEN as usize];
    put(&mut b, ctl::CTL_MAGIC, ctl::MAGIC.to_le_bytes());
    put(&mut b, ctl::VERSION, LAYOUT_VERSION.to_le_bytes());
    put(&mut b, ctl::ARCH, ARCH.to_le_bytes());
    b
}

/// Makes `ctl` unless it is there. Of several first comers one gives it its name, and all use that one.
fn create_ctl(paths: &ChannelPaths) -> Result<()> {
    let name = paths.ctl().map_err(|e| widen(&paths.dir().to_path(), e))?;
    let at = name.to_path();
    if file::stat(name.as_c(), false).is_ok() {
        return Ok(());
    }
    let temp = paths
        .temp(&Facts::read(), process::nonce(), b".ctl")
        .map_err(|e| widen(&paths.dir().to_path(), e))?;
    let made = (|| {
        let fd = file::create_excl(&temp, paths.mode())?;
        if paths.group {
            file::set_mode(fd.raw(), paths.mode())?;
        }
        file::allocate(fd.raw(), 0, ctl::LEN)?;
        file::write_all_at(fd.raw(), &ctl_bytes(), 0)?;
        file::publish(&temp, &name)
    })();
    match made {
        Ok(()) => Ok(()),
        Err(e) => {
            let _ = file::unlink(&temp);
            if e == Errno(libc::EEXIST) { Ok(()) } else { Err(widen(&at, e)) }
        }
    }
}

fn open_ctl(paths: &ChannelPaths, role: Role, create: bool) -> Result<Map> {
    let name = paths.ctl().map_err(|e| widen(&paths.dir().to_path(), e))?;
    let at = name.to_path();
    let access = if role == Role::Drain { Access::ReadWrite } else { Access::Read };
    let mut tries = 0;
    let (fd, st) = loop {
        match file::open_foreign(&name, access) {
            Ok(open) => break open,
            Err(Errno(libc::EWOULDBLOCK)) if tries < 100 => {
                tries += 1;
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(Errno(libc::ENOENT)) if !create => return Err(no_channel(&paths.dir().to_path())),
            Err(e) => return Err(widen(&at, e)),
        }
    };
    let mut head = [0; ID_LEN];
    read_head(&at, &fd, &st, &mut head, ctl::LEN)?;
    check_head(&at, &head, ctl::MAGIC)?;
    let mut map = Map::shared(fd.raw(), ctl::LEN, role == Role::Drain).map_err(|e| widen(&at, e))?;
    if role == Role::Drain {
        map.guard().map_err(|e| widen(&at, e))?;
    }
    Ok(map)
}

fn read_at(at: &Path, fd: &Fd, to: &mut [u8], offset: u64) -> Result<usize> {
    file::read_at(fd.raw(), to, offset).map_err(|e| widen(at, e))
}

/// Reads a file's head with pread: a mapping could fault, and would be charged for pages that are not there.
fn read_head(at: &Path, fd: &Fd, st: &Stat, head: &mut [u8], at_least: u64) -> Result<()> {
    let n = read_at(at, fd, head, 0)?;
    if st.size < at_least || n < head.len() {
        return Err(bad(at, format_args!("is cut short: {} bytes, {at_least} at least", st.size)));
    }
    Ok(())
}

/// The ack or spill that `name` is.
fn orphan(name: &[u8]) -> Option<(Stem, Kind)> {
    [Kind::Ack, Kind::Spill]
        .into_iter()
        .find_map(|kind| Some((name.strip_suffix(kind.suffix()).and_then(Stem::parse)?, kind)))
}

fn head_of(path: &FixedPath, kind: Kind, stem: Stem) -> Option<Identity> {
    let (fd, st) = file::open_foreign(path, Access::Read).ok()?;
    let mut head = [0; ID_LEN];
    let at = path.to_path();
    read_head(&at, &fd, &st, &mut head, ID_LEN as u64).ok()?;
    check_head(&at, &head, kind.magic()).ok()?;
    let who = Identity::decode(&head);
    (who.stem() == stem).then_some(who)
}

/// Whether nobody is making this file any more; `None`: it is gone, or look again. A maker keeps it
/// writable until its ring has a name (ack and spill: as long as it lives), which refuses the lease.
fn nobody_makes(path: &FixedPath, me: &Facts, maker: &Facts) -> Option<bool> {
    match file::open_foreign(path, Access::Read) {
        Ok((fd, st)) => Some(match can_nobody_write(fd.raw()) {
            LeaseAnswer::Granted => true,
            LeaseAnswer::Refused => false,
            LeaseAnswer::Unavailable(_) => by_facts(me, maker, &st) == Dead::Probably,
        }),
        Err(Errno(libc::ENOENT | libc::EWOULDBLOCK)) => None,
        Err(_) => Some(false),
    }
}

/// Death as the facts tell it, where no lease can be had.
fn by_facts(me: &Facts, them: &Facts, st: &Stat) -> Dead {
    /// Inode number of the first time namespace, where time since boot is just that.
    const FIRST_TIME_NS: u64 = 0xEFFF_FFFA;
    match process::fate(me, them) {
        Fate::Gone => Dead::Probably,
        Fate::There => Dead::No,
        Fate::Unknown => {
            // Another boot id alone proves nothing: a container may have its own put over it.
            let booted = (time::utc_ns().saturating_sub(time::boottime_ns()) / 1_000_000_000) as i64;
            let older = me.time_ns == FIRST_TIME_NS && st.mtime.saturating_add(60) < booted;
            if me.boot_id != them.boot_id && older { Dead::Probably } else { Dead::Unknown }
        }
    }
}

/// The files of one producer, opened and checked. The mappings are guarded: when their file is cut short
/// they read as zeros from there, and [`RingView::cut_short`] says so.
#[derive(Debug)]
pub struct RingView {
    /// The name of its files.
    pub stem: Stem,
    /// Who it is, or was.
    pub identity: Identity,
    /// Where the parts of the ring lie; checked.
    pub geometry: Geometry,
    /// How its timestamps are to be read.
    pub clock: ClockFacts,
    paths: ChannelPaths,
    ring: Map,
    ring_fd: Fd,
    ring_id: FileId,
    ack: Map,
    ack_id: FileId,
    spill: Fd,
    spill_id: FileId,
    spill_granules: u64,
    punch: OnceLock<Fd>,
}

impl RingView {
    fn open(paths: &ChannelPaths, stem: Stem, role: Role) -> Result<RingView> {
        let drains = role == Role::Drain;
        let dir = paths.dir().to_path();
        let path = |kind| paths.file(stem, kind).map_err(|e| widen(&dir, e));

        let name = path(Kind::Ring)?;
        let at = name.to_path();
        // O_RDONLY: a descriptor or mapping that could write would refuse the lease that tells death.
        let (ring_fd, st) = file::open_foreign(&name, Access::Read).map_err(|e| widen(&at, e))?;
        let mut head = [0; PAGE as usize];
        read_head(&at, &ring_fd, &st, &mut head, PAGE)?;
        check_head(&at, &head, Kind::Ring.magic())?;
        let identity = Identity::decode(&get(&head, 0));
        let (geometry, clock) = decode_ring_header(&get(&head, 0));
        check_identity(&at, &identity, stem)?;
        if !geometry.valid() {
            return Err(bad(&at, "has a geometry outside the limits"));
        }
        if !(1..=3).contains(&clock.source) {
            return Err(bad(&at, format_args!("names an unknown clock ({})", clock.source)));
        }
        if head[HEADER_LEN..].iter().any(|&b| b != 0) {
            return Err(bad(&at, "has reserved bytes that are not zero"));
        }
        let ring_id = st.id;
        check_len(&at, &head, &st, geometry.file_len())?;
        let mut ring = Map::shared(ring_fd.raw(), geometry.file_len(), false).map_err(|e| widen(&at, e))?;
        ring.guard().map_err(|e| widen(&at, e))?;

        let name = path(Kind::Ack)?;
        let at = name.to_path();
        let access = if drains { Access::ReadWrite } else { Access::Read };
        let (fd, st) = file::open_foreign(&name, access).map_err(|e| widen(&at, e))?;
        let mut head = [0; ID_LEN];
        read_head(&at, &fd, &st, &mut head, ID_LEN as u64)?;
        check_head(&at, &head, Kind::Ack.magic())?;
        check_same(&at, &Identity::decode(&head), &identity)?;
        check_len(&at, &head, &st, geometry.ack_len())?;
        let ack_id = st.id;
        let mut ack = Map::shared(fd.raw(), geometry.ack_len(), drains).map_err(|e| widen(&at, e))?;
        ack.guard().map_err(|e| widen(&at, e))?;

        let name = path(Kind::Spill)?;
        let at = name.to_path();
        let (spill_fd, st) = file::open_foreign(&name, Access::Read).map_err(|e| widen(&at, e))?;
        read_head(&at, &spill_fd, &st, &mut head, spill::HEADER)?;
        check_head(&at, &head, Kind::Spill.magic())?;
        check_same(&at, &Identity::decode(&head), &identity)?;
        let told = u64::from_le_bytes(get(&head, id::FILE_LEN));
        if told != spill::HEADER {
            return Err(bad(&at, format_args!("says that its header has {told} bytes")));
        }
        let mut granules = [0; 8];
        read_at(&at, &spill_fd, &mut granules, spill::GRANULES)?;
        let spill_granules = u64::from_le_bytes(granules);
        if !spill::valid(spill_granules) {
            return Err(bad(&at, format_args!("says that it has {spill_granules} granules")));
        }
        let expected = spill::file_len(spill_granules);
        if st.size < expected {
            return Err(bad(&at, format_args!("is cut short: {} bytes of {expected}", st.size)));
        }
        Ok(RingView {
            stem,
            identity,
            geometry,
            clock,
            paths: *paths,
            ring,
            ring_fd,
            ring_id,
            ack,
            ack_id,
            spill: spill_fd,
            spill_id: st.id,
            spill_granules,
            punch: OnceLock::new(),
        })
    }

    /// The ring, read-only. Do not read a lane's data before its header has a capacity: reading a page that
    /// is not allocated allocates it, and is charged to the reader.
    pub fn ring(&self) -> &Map {
        &self.ring
    }

    /// The word of the ring at `offset`.
    ///
    /// # Panics
    /// When it is not inside.
    pub fn word(&self, offset: u64) -> &AtomicU64 {
        self.ring.word(offset)
    }

    /// The ack, read-write for [`Role::Drain`] only.
    pub fn ack(&self) -> &Map {
        &self.ack
    }

    /// O_RDONLY on the ring.
    pub fn ring_fd(&self) -> i32 {
        self.ring_fd.raw()
    }

    /// O_RDONLY on the spill: read it by pread, never by a mapping.
    pub fn spill_fd(&self) -> i32 {
        self.spill.raw()
    }

    /// Granules of the spill; checked.
    pub fn spill_granules(&self) -> u64 {
        self.spill_granules
    }

    /// Size and allocated bytes of the spill now.
    pub fn spill_stat(&self) -> Result<Stat> {
        file::fstat(self.spill.raw()).map_err(|e| widen(&self.path(Kind::Spill), e))
    }

    /// Gives a part of the spill back, never of its header; bounded by the caller (1 MiB).
    pub fn punch_spill(&self, at: u64, len: u64) -> Result<()> {
        let path = self.path(Kind::Spill);
        if at < spill::HEADER {
            return Err(Error::new(Code::BadValue, format!("{}: its header stays", path.display())));
        }
        let fd = if let Some(fd) = self.punch.get() {
            fd
        } else {
            let name = self.paths.file(self.stem, Kind::Spill).map_err(|e| widen(&path, e))?;
            let (fd, st) = file::open_foreign(&name, Access::Write).map_err(|e| widen(&path, e))?;
            if st.id != self.spill_id {
                return Err(bad(&path, "is another file now than when it was opened"));
            }
            self.punch.get_or_init(|| fd)
        };
        file::punch_hole(fd.raw(), at, len).map_err(|e| widen(&path, e))
    }

    /// Whether an access has found ring or ack cut short: what has been read since may be zeros of our own,
    /// so none of that pass counts, and this ring is to be given up.
    pub fn cut_short(&self) -> bool {
        self.ring.hit() || self.ack.hit()
    }

    /// What became of its writers; 3 to 4 µs.
    pub fn dead(&self, me: &Facts) -> Dead {
        match can_nobody_write(self.ring_fd.raw()) {
            LeaseAnswer::Granted => Dead::Yes,
            LeaseAnswer::Refused => Dead::No,
            LeaseAnswer::Unavailable(_) => match file::fstat(self.ring_fd.raw()) {
                Ok(st) => by_facts(me, &self.identity.facts, &st),
                Err(_) => Dead::Unknown,
            },
        }
    }

    /// Lets `watch` tell when whoever could write the ring has closed it. `None`: it can't.
    pub fn watch(&self, watch: &Watch) -> Option<Watched> {
        watch.closes(&self.paths.file(self.stem, Kind::Ring).ok()?).ok()
    }

    /// Whether the ring still has its name: a stranger may have removed it.
    pub fn is_linked(&self) -> bool {
        self.paths
            .file(self.stem, Kind::Ring)
            .and_then(|p| file::stat(p.as_c(), false))
            .is_ok_and(|st| st.id == self.ring_id)
    }

    /// Takes the files away, the ring last: whoever finds a ring finds the rest. Only for a drain that has
    /// delivered everything of a dead producer. May be repeated.
    pub fn unlink(&self) -> Result<()> {
        let ids = [(Kind::Spill, self.spill_id), (Kind::Ack, self.ack_id), (Kind::Ring, self.ring_id)];
        for (kind, id) in ids {
            let at = self.path(kind);
            let name = self.paths.file(self.stem, kind).map_err(|e| widen(&at, e))?;
            match file::stat(name.as_c(), false) {
                Ok(st) if st.id == id => match file::unlink(&name) {
                    Ok(()) | Err(Errno(libc::ENOENT)) => {}
                    Err(e) => return Err(widen(&at, e)),
                },
                // Not ours to remove, or removed already.
                Ok(_) | Err(Errno(libc::ENOENT)) => {}
                Err(e) => return Err(widen(&at, e)),
            }
        }
        Ok(())
    }

    /// The path of one of its files, for messages.
    pub fn path(&self, kind: Kind) -> PathBuf {
        self.paths.file(self.stem, kind).map(|p| p.to_path()).unwrap_or_default()
    }
}

fn check_identity(at: &Path, who: &Identity, stem: Stem) -> Result<()> {
    if who.stem() == stem {
        return Ok(());
    }
    Err(bad(at, format_args!("is the ring of {}, not of the producer in its name", who.stem())))
}

fn check_same(at: &Path, who: &Identity, ring: &Identity) -> Result<()> {
    if who == ring { Ok(()) } else { Err(bad(at, "does not belong to the ring of its name")) }
}

fn check_len(at: &Path, head: &[u8], st: &Stat, expected: u64) -> Result<()> {
    let told = u64::from_le_bytes(get(head, id::FILE_LEN));
    if told != expected {
        let what = format_args!("says that it has {told} bytes, by its geometry {expected}");
        return Err(bad(at, what));
    }
    if st.size < expected {
        return Err(bad(at, format_args!("is cut short: {} bytes of {expected}", st.size)));
    }
    if st.size > expected {
        return Err(bad(at, format_args!("is too long: {} bytes instead of {expected}", st.size)));
    }
    Ok(())
}
