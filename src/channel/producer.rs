//! What a producer makes when it attaches. Everything here is async-signal-safe (about 4 KiB of stack), but
//! for [`AttachError::widen`].

use super::{ChannelPaths, ClockFacts, HEADER_LEN, ID_LEN, Identity, Kind, Stem, encode_ring_header};
use crate::error::{Code, Error};
use crate::layout::ring::{Geometry, MIN_LANE};
use crate::layout::{PAGE, spill};
use crate::sync::Ordering::Release;
use crate::sys::file::{self, Access};
use crate::sys::process::{self, Facts};
use crate::sys::{Errno, Fd, FileId, FixedPath, Map, room};

/// What a producer asks for.
#[derive(Clone, Copy, Debug)]
pub struct ProducerSpec {
    /// The process that attaches, read in this very process.
    pub facts: Facts,
    /// The ring's geometry; made smaller where RLIMIT_FSIZE asks for it.
    pub geometry: Geometry,
    /// How its timestamps are to be read.
    pub clock: ClockFacts,
    /// Granules of its spill; fewer where RLIMIT_FSIZE, the file system or the address space ask for it.
    pub spill_granules: u64,
}

/// What a producer has when it is attached.
#[derive(Debug)]
pub struct ProducerFiles {
    /// The name of its files.
    pub stem: Stem,
    /// The geometry it got.
    pub geometry: Geometry,
    /// `P.ring`, read-write; no descriptor that could write it is left. Allocated up to
    /// `geometry.lane_data(0)`; a lane's data is allocated by [`Map::populate`] when it is claimed.
    pub ring: Map,
    /// `P.ack`, read-only.
    pub ack: Map,
    /// O_RDONLY on `P.ring`: what a forked child needs to see it privately, and to copy its sites.
    pub ring_fd: Fd,
    /// `P.spill`, of which nothing is open yet ([`Map::reserve`]). None: this process cannot spill.
    pub spill_map: Option<Map>,
    /// Its granules.
    pub spill_granules: u64,
    /// `P.spill`, to be asked for its blocks; nothing else needs it.
    pub spill: Fd,
    /// Which file `spill` has to be: the program may close and reuse any number.
    pub spill_id: FileId,
    /// Which file `ring_fd` has to be.
    pub ring_id: FileId,
}

impl ProducerFiles {
    /// Takes the files away again and forgets them: for an attach that another one overtook. In any
    /// process but their maker's nothing is unlinked.
    pub fn discard(self, paths: &ChannelPaths) {
        if process::pid() == self.stem.pid {
            // The ring first: nobody has logged to it, and killed on the way this leaves an ack and a spill
            // without a ring, which are swept, and not a ring that nobody can open.
            for kind in [Kind::Ring, Kind::Spill, Kind::Ack] {
                if let Ok(p) = paths.file(self.stem, kind) {
                    let _ = file::unlink(&p);
                }
            }
        }
    }
}

/// Where attaching failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The geometry is not allowed, or a path too long.
    Arguments,
    /// The memory cgroup has no room: allocating would be killed instead of failing.
    Memory,
    /// Making or publishing `P.ack`.
    Ack,
    /// Making or publishing `P.spill`.
    Spill,
    /// Making or publishing `P.ring`.
    Ring,
}

/// Why attaching failed. Nothing of it is left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttachError {
    /// Where.
    pub step: Step,
    /// What the system said.
    pub errno: Errno,
}

impl AttachError {
    /// The error for people. Allocates.
    pub fn widen(self, paths: &ChannelPaths) -> Error {
        let dir = paths.dir().to_path();
        let dir = dir.display();
        if self.step == Step::Memory {
            return Error {
                code: Code::NoSpace,
                message: format!(
                    "no ring in {dir}: this process's memory cgroup has no room for it: \
                     raise its limit, or free some memory"
                ),
                errno: Some(self.errno.0),
            };
        }
        let what = match self.step {
            Step::Arguments | Step::Memory => "the request itself",
            Step::Ack => "the ack file",
            Step::Spill => "the spill file",
            Step::Ring => "the ring file",
        };
        Error::os(format_args!("no ring in {dir}: {what}"), self.errno.into())
    }
}

/// What stands in the directory so far, so that a failure can take it away: bits of [`bit`].
struct Made {
    bits: u8,
    published: bool,
}

fn bit(kind: Kind, published: bool) -> u8 {
    1 << (kind as u8 * 2 + published as u8)
}

/// Room that has to be left beyond what an attach takes, so that the program itself has some too.
const SPARE: u64 = 256 << 10;

/// Makes the three files of a producer: ack, spill, then ring, each complete before it has its name.
///
/// # Errors
/// [`AttachError`]; then nothing is left behind.
pub fn create_producer(paths: &ChannelPaths, spec: &ProducerSpec) -> Result<ProducerFiles, AttachError> {
    let at = |step| move |errno| AttachError { step, errno };
    let geometry = fit(spec.geometry, file::file_size_limit()).map_err(at(Step::Arguments))?;
    let needed = geometry.lane_data(0) + geometry.ack_len() + spill::HEADER;
    if room::memory_room().is_some_and(|room| room < needed + SPARE) {
        return Err(AttachError { step: Step::Memory, errno: Errno(libc::ENOMEM) });
    }
    let who = Identity { nonce: process::nonce(), facts: spec.facts };
    let mut made = Made { bits: 0, published: false };
    let files = (|| {
        let ack = make_ack(paths, &who, &geometry, &mut made).map_err(at(Step::Ack))?;
        let s = make_spill(paths, &who, spec.spill_granules, &mut made).map_err(at(Step::Spill))?;
        let (ring, ring_fd, ring_id) =
            make_ring(paths, &who, &geometry, &spec.clock, &mut made).map_err(at(Step::Ring))?;
        made.published = true;
        Ok(ProducerFiles {
            stem: who.stem(),
            geometry,
            ring,
            ack,
            ring_fd,
            spill_map: s.map,
            spill_granules: s.granules,
            spill: s.fd,
            spill_id: s.id,
            ring_id,
        })
    })();
    if !made.published {
        undo(paths, &who, made.bits);
    }
    files
}

/// `g` made to fit files of at most `limit` bytes: fewer lanes, then smaller ones.
fn fit(mut g: Geometry, limit: u64) -> Result<Geometry, Errno> {
    if !g.valid() {
        return Err(Errno(libc::EINVAL));
    }
    while g.file_len() > limit {
        if g.lanes > 1 {
            g.lanes /= 2;
        } else if g.lane_stride > MIN_LANE {
            g.lane_stride /= 2;
        } else {
            return Err(Errno(libc::EFBIG));
        }
    }
    Ok(g)
}

#[inline(never)]
fn undo(paths: &ChannelPaths, who: &Identity, bits: u8) {
    // The ring first here: without it nobody has looked at the others.
    for kind in [Kind::Ring, Kind::Spill, Kind::Ack] {
        if bits & bit(kind, true) != 0
            && let Ok(p) = paths.file(who.stem(), kind)
        {
            let _ = file::unlink(&p);
        }
        if bits & bit(kind, false) != 0
            && let Ok(p) = paths.temp(&who.facts, who.nonce, kind.suffix())
        {
            let _ = file::unlink(&p);
        }
    }
}

/// Creates the temporary file of `kind`.
fn create(
    paths: &ChannelPaths,
    who: &Identity,
    kind: Kind,
    made: &mut Made,
) -> Result<(Fd, FixedPath), Errno> {
    let temp = paths.temp(&who.facts, who.nonce, kind.suffix())?;
    let fd = file::create_excl(&temp, paths.mode())?;
    made.bits |= bit(kind, false);
    if paths.group {
        // The umask has taken the group's bits away.
        file::set_mode(fd.raw(), paths.mode())?;
    }
    Ok((fd, temp))
}

/// Names it. Its maker keeps a writable descriptor or mapping until then: that refuses a lease, by
/// which whoever cleans up sees that it is no leftover.
fn name(
    paths: &ChannelPaths,
    who: &Identity,
    kind: Kind,
    temp: &FixedPath,
    made: &mut Made,
) -> Result<(), Errno> {
    file::publish(temp, &paths.file(who.stem(), kind)?)?;
    made.bits = made.bits & !bit(kind, false) | bit(kind, true);
    Ok(())
}

#[inline(never)]
fn make_ack(paths: &ChannelPaths, who: &Identity, g: &Geometry, made: &mut Made) -> Result<Map, Errno> {
    let (fd, temp) = create(paths, who, Kind::Ack, made)?;
    let len = g.ack_len();
    file::allocate(fd.raw(), 0, len)?;
    file::write_all_at(fd.raw(), &who.encode(Kind::Ack.magic(), len), 0)?;
    let map = Map::shared(fd.raw(), len, false)?;
    name(paths, who, Kind::Ack, &temp, made)?;
    Ok(map)
}

#[inline(never)]
fn make_spill(paths: &ChannelPaths, who: &Identity, wanted: u64, made: &mut Made) -> Result<Spill, Errno> {
    let (fd, temp) = create(paths, who, Kind::Spill, made)?;
    file::allocate(fd.raw(), 0, spill::HEADER)?;
    // What the program may have of addresses is meant for the program.
    let room = file::rlimit(libc::RLIMIT_AS) / 8;
    let reserve = |granules| {
        let len = spill::file_len(granules);
        if len > room {
            return Err(Errno(libc::ENOMEM));
        }
        file::set_len(fd.raw(), len)?;
        Map::reserve(fd.raw(), len)
    };
    let (mut granules, mut map) = (wanted, None);
    while spill::valid(granules) && granules > 0 {
        map = reserve(granules).ok();
        if map.is_some() {
            break;
        }
        granules /= 2;
    }
    if map.is_none() {
        granules = 0;
        file::set_len(fd.raw(), spill::HEADER)?;
    }
    file::write_all_at(fd.raw(), &granules.to_le_bytes(), spill::GRANULES)?;
    file::write_all_at(fd.raw(), &who.encode(Kind::Spill.magic(), spill::HEADER), 0)?;
    let id = file::fstat(fd.raw())?.id;
    let fd = file::dup_high(fd);
    name(paths, who, Kind::Spill, &temp, made)?;
    Ok(Spill { fd, id, map, granules })
}

struct Spill {
    fd: Fd,
    id: FileId,
    map: Option<Map>,
    granules: u64,
}

#[inline(never)]
fn make_ring(
    paths: &ChannelPaths,
    who: &Identity,
    g: &Geometry,
    clock: &ClockFacts,
    made: &mut Made,
) -> Result<(Map, Fd, FileId), Errno> {
    let (fd, temp) = create(paths, who, Kind::Ring, made)?;
    file::set_len(fd.raw(), g.file_len())?;
    file::allocate(fd.raw(), 0, g.lane_data(0))?;
    let map = Map::shared(fd.raw(), g.file_len(), true)?;
    let header: [u8; HEADER_LEN] = encode_ring_header(who, g, clock);
    map.write(8, &header[8..]);
    map.word(0).store(Kind::Ring.magic(), Release);
    let id = file::fstat(fd.raw())?.id;
    let (read_only, st) = file::open_foreign(&temp, Access::Read)?;
    if st.id != id {
        return Err(Errno(libc::ESTALE));
    }
    let read_only = file::dup_high(read_only);
    // From here on the mapping alone can write it. It has to go with the process, and a descriptor that
    // a forked child forgets would not.
    drop(fd);
    name(paths, who, Kind::Ring, &temp, made)?;
    Ok((map, read_only, id))
}

const _: () = assert!(ID_LEN as u64 <= spill::HEADER && HEADER_LEN as u64 <= PAGE);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_limit_makes_it_smaller() {
        let g = Geometry { lanes: 64, slots: 64, granules: 64, lane_stride: 1 << 18, arena: 1 << 16 };
        assert_eq!(fit(g, u64::MAX).unwrap(), g);
        assert_eq!(fit(g, g.file_len()).unwrap(), g);
        let small = fit(g, g.file_len() - 1).unwrap();
        assert_eq!((small.lanes, small.lane_stride), (32, g.lane_stride));
        let smaller = fit(g, g.lane_data(0)).unwrap();
        assert_eq!(smaller.lanes, 1);
        assert!(smaller.file_len() <= g.lane_data(0) && smaller.valid());
        assert_eq!(fit(g, 1000).unwrap_err(), Errno(libc::EFBIG));
        assert_eq!(fit(Geometry { lanes: 0, ..g }, u64::MAX).unwrap_err(), Errno(libc::EINVAL));
    }
}
