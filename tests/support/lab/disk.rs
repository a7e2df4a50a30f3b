//! The disk of a machine: an overlay whose writable half is on the host's file system, or on a separate ext4 that can
//! lose unsynced data.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::must;

/// The place of the writable half of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disk {
    /// On the host's file system: cheapest, and nothing is ever lost.
    Shared,
    /// On an ext4 in a file, on which a power cut can be simulated.
    Ext4,
}

/// The disk of one machine, in its directory.
#[derive(Debug)]
pub(super) struct Store {
    directory: PathBuf,
    base: PathBuf,
    disk: Disk,
    /// The writable half of another machine, which is below that of this one.
    below: Option<PathBuf>,
}

impl Store {
    pub(super) fn new(directory: &Path, base: &Path, disk: Disk) -> Self {
        let store = Self { directory: directory.to_owned(), base: base.to_owned(), disk, below: None };
        // Every machine that boots gets a copy of this host's mounts. Only because these are shared does unmounting
        // them here unmount them there; otherwise a neighbor would hold a released disk.
        must(
            "mount",
            ["--bind".as_ref(), "--make-shared".as_ref(), directory.as_os_str(), directory.as_os_str()],
        );
        for path in [store.root(), store.writable()] {
            fs::create_dir_all(path).unwrap();
        }
        if disk == Disk::Ext4 {
            let image = fs::File::create(store.image()).unwrap();
            image.set_len(4 << 30).unwrap();
            let options = ["-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard"];
            must("mkfs.ext4", options.iter().map(AsRef::as_ref).chain([store.image().as_os_str()]));
        }
        if disk == Disk::Shared && is_overlay(directory) {
            // A container's own file system cannot hold the writable half of another overlay; memory can.
            must("mount", ["-t".as_ref(), "tmpfs".as_ref(), "none".as_ref(), store.writable().as_os_str()]);
        }
        store.mount();
        store
    }

    /// The whole file system of the machine.
    pub(super) fn root(&self) -> PathBuf {
        self.directory.join("root")
    }

    pub(super) fn mount(&self) {
        if self.disk == Disk::Ext4 {
            // Unsynced data is written to disk with the journal; often, so that a cut finds some of it there.
            must(
                "mount",
                [
                    "-o".as_ref(),
                    "loop,commit=1".as_ref(),
                    self.image().as_os_str(),
                    self.writable().as_os_str(),
                ],
            );
        }
        let (upper, work) = (self.writable().join("upper"), self.writable().join("work"));
        fs::create_dir_all(&upper).unwrap();
        fs::create_dir_all(&work).unwrap();
        // Otherwise a directory in the lower layer could not be renamed.
        let below = self.below.as_ref().map(|below| format!("{}:", below.display())).unwrap_or_default();
        let options = format!(
            "redirect_dir=on,lowerdir={below}{},upperdir={},workdir={}",
            self.base.display(),
            upper.display(),
            work.display()
        );
        must("mount", ["-t", "overlay", "-o", &options, "none", self.root().to_str().unwrap()]);
    }

    pub(super) fn unmount(&self) {
        unmount(&self.root());
        if self.disk == Disk::Ext4 {
            unmount(&self.writable());
        }
    }

    /// Removes the disk now: unwritten data is lost, and from now on every access fails.
    pub(super) fn cut(&self) {
        assert_eq!(self.disk, Disk::Ext4, "a power cut needs a machine with Disk::Ext4");
        // EXT4_IOC_SHUTDOWN with EXT4_GOING_FLAGS_NOLOGFLUSH: the journal is not written out either.
        let shutdown = "import fcntl, os, struct, sys\n\
                        fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack('I', 2))";
        must("/usr/bin/python3", ["-ISc".as_ref(), shutdown.as_ref(), self.writable().as_os_str()]);
    }

    /// Keeps a copy of the disk, which is not in use meanwhile.
    pub(super) fn snapshot(&self, name: &str) {
        self.unmount();
        let copy = self.snapshots().join(name);
        let _ = fs::remove_dir_all(&copy);
        fs::create_dir_all(&copy).unwrap();
        copy_all(&self.content(), &copy);
        self.mount();
    }

    /// Restores a copy, any number of times.
    pub(super) fn restore(&self, name: &str) {
        let copy = self.snapshots().join(name);
        assert!(copy.exists(), "there is no snapshot {name}");
        self.replace_content(&copy.join(self.content().file_name().unwrap()));
    }

    /// Uses the content of another disk, which is unmounted and stays unchanged from now on. Nothing is copied.
    pub(super) fn stand_on(&mut self, original: &Self) {
        assert_eq!((self.disk, original.disk), (Disk::Shared, Disk::Shared));
        assert!(original.below.is_none(), "a copy of a copy");
        self.unmount();
        self.below = Some(original.content());
        self.mount();
    }

    fn replace_content(&self, from: &Path) {
        self.unmount();
        let content = self.content();
        if content.is_dir() {
            fs::remove_dir_all(&content).unwrap();
        } else {
            fs::remove_file(&content).unwrap();
        }
        copy_all(from, content.parent().unwrap());
        self.mount();
    }

    /// The part that differs from machine to machine: the image, or the upper directory of the overlay.
    fn content(&self) -> PathBuf {
        match self.disk {
            Disk::Shared => self.writable().join("upper"),
            Disk::Ext4 => self.image(),
        }
    }

    fn writable(&self) -> PathBuf {
        self.directory.join("disk")
    }

    fn image(&self) -> PathBuf {
        self.directory.join("disk.img")
    }

    /// Beside their originals, since not every file system can hold the content of an overlay's upper directory.
    fn snapshots(&self) -> PathBuf {
        match self.disk {
            Disk::Shared => self.writable().join("snapshots"),
            Disk::Ext4 => self.directory.join("snapshots"),
        }
    }
}

/// Returns whether a directory lies on an overlay (statfs(2): its magic number).
fn is_overlay(directory: &Path) -> bool {
    rustix::fs::statfs(directory).unwrap().f_type == 0x794c_7630
}

/// Copies with owners, modes, times and the overlay's own attributes.
fn copy_all(from: &Path, into: &Path) {
    let options = ["--archive", "--sparse=always", "--reflink=auto"];
    must("cp", options.iter().map(AsRef::as_ref).chain([from.as_os_str(), into.as_os_str()]));
}

/// Unmounts `path`, and waits as long as killed processes still hold it.
pub(super) fn unmount(path: &Path) {
    assert!(is_unmounted_within(path, Duration::from_secs(20)), "{} is in use", path.display());
}

/// Unmounts `path`; if it is still in use, when its last user ends.
pub(super) fn detach(path: &Path) {
    if !is_unmounted_within(path, Duration::from_secs(1)) {
        let _ = Command::new("umount").arg("--lazy").arg(path).output();
    }
}

fn is_unmounted_within(path: &Path, limit: Duration) -> bool {
    let end = Instant::now() + limit;
    loop {
        let output = Command::new("umount").arg(path).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        if output.status.success() || error.contains("not mounted") || error.contains("no mount point") {
            return true;
        }
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
