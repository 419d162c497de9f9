//! The words that file systems take as mount options. One that they do not know fails the mount.
//!
//! Sources: mount(8) and fstab(5) of util-linux, systemd.mount(5); Linux 6.1 `fs/ext4/super.c`, `fs/fat/inode.c`,
//! `fs/xfs/xfs_super.c`, with what older releases took and newer ones still pass over.

/// What mount and systemd take away before the file system is asked.
const COMMON: &str = "defaults ro rw suid nosuid dev nodev exec noexec sync async dirsync mand nomand atime noatime \
    diratime nodiratime relatime norelatime strictatime nostrictatime lazytime nolazytime silent loud auto noauto \
    user nouser users owner group nofail fail _netdev comment remount bind rbind private rprivate shared rshared slave \
    rslave unbindable runbindable context fscontext defcontext rootcontext seclabel iversion noiversion nosymfollow \
    symfollow helper uhelper loop offset sizelimit encryption pri sw noquota";
const EXT: &str = "bsddf minixdf grpid bsdgroups nogrpid sysvgroups resgid resuid sb errors nouid32 debug oldalloc \
    orlov user_xattr nouser_xattr acl noacl norecovery noload bh nobh commit min_batch_time max_batch_time journal \
    journal_dev journal_path journal_checksum nojournal_checksum journal_async_commit abort data data_err usrjquota \
    offusrjquota grpjquota offgrpjquota jqfmt grpquota quota usrquota prjquota barrier nobarrier i_version dax stripe \
    delalloc nodelalloc warn_on_error nowarn_on_error debug_want_extra_isize mblk_io_submit nomblk_io_submit \
    block_validity noblock_validity inode_readahead_blks journal_ioprio auto_da_alloc noauto_da_alloc dioread_nolock \
    nodioread_nolock dioread_lock discard nodiscard init_itable noinit_itable max_dir_size_kb test_dummy_encryption \
    inlinecrypt nombcache no_mbcache prefetch_block_bitmaps no_prefetch_block_bitmaps mb_optimize_scan check nocheck \
    reservation noreservation extents noextents xip";
const FAT: &str = "uid gid umask dmask fmask allow_utime codepage usefree nocase quiet showexec debug immutable \
    sys_immutable flush utf8 uni_xlate posix nonumtail shortname iocharset tz time_offset errors discard nfs \
    dos1xfloppy check conv dots nodots dotsOK rodir fat blocksize";
const XFS: &str = "logbufs logbsize logdev rtdev wsync noalign swalloc sunit swidth nouuid grpid nogrpid bsdgroups \
    sysvgroups allocsize norecovery inode64 inode32 ikeep noikeep largeio nolargeio attr2 noattr2 filestreams quota \
    usrquota grpquota prjquota uquota gquota pquota uqnoenforce gqnoenforce pqnoenforce qnoenforce discard nodiscard \
    dax";

/// The first option that a file system of this kind does not know. Kinds that are not listed here know all.
#[must_use]
pub fn unknown<'a>(kind: &str, options: &'a [String]) -> Option<&'a str> {
    let own = match kind {
        "ext2" | "ext3" | "ext4" => EXT,
        "vfat" | "msdos" => FAT,
        "xfs" => XFS,
        _ => return None,
    };
    let known = |word: &str| {
        word.is_empty()
            || word.starts_with("x-")
            || word.starts_with("X-")
            || [COMMON, own].iter().any(|list| list.split_whitespace().any(|known| known == word))
    };
    options.iter().map(String::as_str).find(|option| {
        let word = option.split('=').next().unwrap_or_default();
        !known(word)
    })
}
