//! What an examination finds, and what it reads for it.
#![expect(clippy::disallowed_methods, reason = "the tests lay out what is examined")]

use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;

use super::super::Header;
use super::super::digest::Hashing;
use super::*;
use crate::error::Failure;
use crate::manifest::Scan;

fn digest(algorithm: Algorithm, bytes: &[u8]) -> Digest {
    let mut hashing = Hashing::new(algorithm, bytes.len() as u64);
    hashing.update(bytes);
    hashing.finish()
}

fn claim(path: impl Into<PathBuf>, digest: Option<Digest>) -> Claim {
    Claim {
        path: path.into(),
        shown: "shown".to_owned(),
        need: Need::Required,
        size: None,
        digest,
        from: "a test".to_owned(),
        header: Header::None,
    }
}

/// A file below `folder`, and the claim that it has these bytes.
fn file(folder: &Path, name: &str, bytes: &[u8]) -> Claim {
    let path = folder.join(name);
    fs::write(&path, bytes).unwrap();
    claim(path, Some(digest(Algorithm::Sha256, bytes)))
}

fn full(claims: &[Claim], cache: &Cache) -> Examined {
    let examined = examine_unless(&|| Ok(()), claims, How::Full, cache, 3, &());
    assert!(examined.ended.is_ok());
    assert_eq!(examined.verdicts.len(), claims.len());
    examined
}

fn findings(examined: &Examined) -> Vec<&Finding> {
    examined.verdicts.iter().map(|verdict| &verdict.finding).collect()
}

fn stamp(claim: &Claim) -> Stamp {
    Stamp::of(&fs::symlink_metadata(&claim.path).unwrap())
}

const ALL: [Algorithm; 4] = [Algorithm::Sha256, Algorithm::Sha512, Algorithm::Blake3, Algorithm::GitBlobSha1];

#[test]
fn rw_6_2b_every_algorithm_verifies_a_file_and_finds_one_bit_that_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let bytes: Vec<u8> = (0..3_000_001_u32).map(|at| (at % 253) as u8).collect();
    let mut flipped = bytes.clone();
    flipped[2_999_999] ^= 0x10;
    for algorithm in ALL {
        let right = Claim { digest: Some(digest(algorithm, &bytes)), ..file(folder.path(), "a", &bytes) };
        let wrong = Claim { path: folder.path().join("b"), ..right.clone() };
        fs::write(&wrong.path, &flipped).unwrap();
        let mismatch = Finding::DigestMismatch {
            expected: digest(algorithm, &bytes).hex,
            found: digest(algorithm, &flipped).hex,
        };
        let examined = full(&[right, wrong], &Cache::default());
        assert_eq!(findings(&examined), [&Finding::Verified, &mismatch]);
    }
}

#[test]
fn rw_6_2a_what_is_there_and_what_is_not_is_told_without_reading() {
    let folder = tempfile::tempdir().unwrap();
    let there = file(folder.path(), "there", b"abc");
    let wrong = Claim { digest: Some(digest(Algorithm::Sha256, b"other")), ..there.clone() };
    let longer = Claim { size: Some(4), ..there.clone() };
    let right = Claim { size: Some(3), ..there.clone() };
    let required = Claim { path: folder.path().join("none"), ..there.clone() };
    let optional = Claim { need: Need::Optional, ..required.clone() };
    let no_file = claim(folder.path(), None);
    let claims = [there, wrong, longer, right, required, optional, no_file];
    let examined = examine_unless(&|| Ok(()), &claims, How::Presence, &Cache::default(), 1, &());
    let expected = [
        &Finding::Present,
        &Finding::Present,
        &Finding::SizeMismatch { expected: 4, found: 3 },
        &Finding::Present,
        &Finding::MissingRequired,
        &Finding::MissingOptional,
        &Finding::Unreadable("it is a folder, no regular file".to_owned()),
    ];
    assert_eq!(findings(&examined), expected);
    assert!(examined.verdicts.iter().all(|verdict| verdict.bytes_read == 0 && !verdict.cached));
}

#[test]
fn a_file_is_read_once_for_all_claims_names_and_algorithms() {
    let folder = tempfile::tempdir().unwrap();
    let first = file(folder.path(), "a", b"0123456789");
    let mut claims: Vec<Claim> =
        ALL.map(|algorithm| Claim { digest: Some(digest(algorithm, b"0123456789")), ..first.clone() }).into();
    let second_name = Claim { path: folder.path().join("b"), ..first };
    fs::hard_link(&claims[0].path, &second_name.path).unwrap();
    claims.push(second_name);
    // Of the wrong length: told without reading.
    claims.push(Claim { size: Some(9), ..claims[0].clone() });
    let examined = full(&claims, &Cache::default());
    assert!(findings(&examined)[..5].iter().all(|finding| **finding == Finding::Verified));
    assert_eq!(findings(&examined)[5].word(), "size-mismatch");
    assert_eq!(examined.verdicts.iter().map(|verdict| verdict.bytes_read).sum::<u64>(), 10);
}

#[test]
fn rw_6_2b_names_of_one_file_that_come_apart_are_each_read_for_themselves() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let good = digest(Algorithm::Sha256, b"good");
    let [first, second, third] = ["1", "2", "3"].map(|name| claim(at(name), Some(good.clone())));
    let right = Claim { digest: Some(digest(Algorithm::Sha256, b"evil")), ..second.clone() };
    let claims = [first, second, right, third];
    let changes: [(&dyn Fn(), [&str; 4]); 3] = [
        (
            &|| fs::rename(at("good"), at("1")).unwrap(),
            ["verified", "digest-mismatch", "verified", "digest-mismatch"],
        ),
        (
            &|| fs::remove_file(at("1")).unwrap(),
            ["missing-required", "digest-mismatch", "verified", "digest-mismatch"],
        ),
        (&|| fs::write(at("1"), "good").unwrap(), ["verified", "verified", "digest-mismatch", "verified"]),
    ];
    for (change, words) in changes {
        for name in ["1", "2", "3"] {
            let _ = fs::remove_file(at(name));
        }
        fs::write(at("good"), "good").unwrap();
        fs::write(at("1"), "evil").unwrap();
        fs::hard_link(at("1"), at("2")).unwrap();
        fs::hard_link(at("1"), at("3")).unwrap();
        let mut examination = Examination::of(&claims, &Cache::default());
        examination.look(&|| Ok(())).unwrap();
        clock::between_changes().unwrap();
        change();
        examination.settle(How::Full, 2, &|| Ok(()), &()).unwrap();
        let examined = examination.finish(Ok(()));
        assert_eq!(findings(&examined).iter().map(|finding| finding.word()).collect::<Vec<_>>(), words);
    }
}

#[test]
fn any_number_of_threads_finds_the_same_in_the_order_of_the_claims() {
    let folder = tempfile::tempdir().unwrap();
    let claims: Vec<Claim> = (0..400_usize)
        .map(|number| {
            let bytes = vec![b'x'; number * 37 % 5000];
            let claim = file(folder.path(), &number.to_string(), &bytes);
            let wrong = digest(Algorithm::Sha256, b"wrong");
            if number % 7 == 0 { Claim { digest: Some(wrong), ..claim } } else { claim }
        })
        .collect();
    for threads in [0, 1, 2, 16, 1000] {
        let examined = examine_unless(&|| Ok(()), &claims, How::Full, &Cache::default(), threads, &());
        for (number, (claim, verdict)) in claims.iter().zip(&examined.verdicts).enumerate() {
            assert_eq!(claim.path, verdict.path);
            let word = if number % 7 == 0 { "digest-mismatch" } else { "verified" };
            assert_eq!(verdict.finding.word(), word, "{number} with {threads} threads");
        }
    }
}

#[test]
fn a_file_that_is_known_is_not_read_and_one_that_has_changed_is() {
    let folder = tempfile::tempdir().unwrap();
    // The digest is that of other bytes: only the cache can say that it is right.
    let pretended = digest(Algorithm::Sha256, b"other");
    let known = Claim { digest: Some(pretended.clone()), ..file(folder.path(), "a", b"abc") };
    let mut cache = Cache::default();
    cache.keep(stamp(&known), pretended);
    let examined = full(std::slice::from_ref(&known), &cache);
    assert_eq!(findings(&examined), [&Finding::Verified]);
    assert!(examined.verdicts[0].cached && examined.verdicts[0].bytes_read == 0);
    assert_eq!(examined.cache, cache);
    // The same length and the same time of modification: the time of change tells.
    let time = fs::metadata(&known.path).unwrap().modified().unwrap();
    clock::between_changes().unwrap();
    fs::write(&known.path, "xyz").unwrap();
    File::options().write(true).open(&known.path).unwrap().set_modified(time).unwrap();
    let examined = full(&[known], &cache);
    assert_eq!(findings(&examined)[0].word(), "digest-mismatch");
    assert!(!examined.verdicts[0].cached && examined.verdicts[0].bytes_read == 3);
}

#[test]
fn a_problem_is_never_told_from_the_cache() {
    let folder = tempfile::tempdir().unwrap();
    let right = file(folder.path(), "a", b"abc");
    let mut cache = Cache::default();
    cache.keep(stamp(&right), digest(Algorithm::Sha256, b"other"));
    let examined = full(&[right], &cache);
    assert_eq!(findings(&examined), [&Finding::Verified]);
    assert_eq!(examined.verdicts[0].bytes_read, 3);
}

#[test]
fn what_was_read_is_remembered_unless_it_changed_just_now_and_what_nobody_names_is_not_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    // A file that is older than this program.
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("LICENSE");
    let old = claim(&path, Some(digest(Algorithm::Blake3, &fs::read(&path).unwrap())));
    let fresh = file(folder.path(), "fresh", b"abc");
    let elsewhere = file(folder.path(), "of another store", b"abc");
    let mut cache = Cache::default();
    cache.keep(stamp(&elsewhere), digest(Algorithm::Sha256, b"abc"));
    let also_known = digest(Algorithm::Sha512, b"whatever");
    cache.keep(stamp(&old), also_known.clone());
    let claims = [old, fresh];
    let examined = full(&claims, &cache);
    assert_eq!(findings(&examined), [&Finding::Verified, &Finding::Verified]);
    assert_eq!(examined.cache.len(), 2);
    assert_eq!(examined.cache.digests(&stamp(&claims[0])), [also_known, claims[0].digest.clone().unwrap()]);
    assert!(full(&claims, &examined.cache).verdicts[0].cached);
    assert!(full(&[elsewhere], &examined.cache).verdicts[0].cached);
    // Whether files are there says nothing about what is known of them.
    let looked = examine_unless(&|| Ok(()), &claims, How::Presence, &cache, 1, &());
    assert_eq!(looked.cache, cache);
}

#[test]
fn whoever_reads_everything_afresh_forgets_only_what_is_not_so_any_more() {
    let folder = tempfile::tempdir().unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("LICENSE");
    let right = digest(Algorithm::Sha256, &fs::read(&path).unwrap());
    let old = claim(&path, Some(right.clone()));
    let pretended = Claim { digest: Some(digest(Algorithm::Sha256, b"other")), ..old.clone() };
    let elsewhere = file(folder.path(), "of another store", b"abc");
    let mut cache = Cache::default();
    for claim in [&pretended, &elsewhere] {
        cache.keep(stamp(claim), claim.digest.clone().unwrap());
    }
    let examined = examine_unless(&|| Ok(()), &[pretended, old.clone()], How::Afresh, &cache, 1, &());
    let words: Vec<&str> = findings(&examined).iter().map(|finding| finding.word()).collect();
    assert_eq!(words, ["digest-mismatch", "verified"]);
    assert_eq!(examined.cache.digests(&stamp(&old)), [right]);
    assert_eq!(examined.cache.len(), 2);
}

#[test]
fn an_interruption_ends_the_reading_at_once_and_keeps_what_is_known() {
    struct Begun(RefCell<bool>);
    impl Progress for Begun {
        fn take(&self, reached: &Reached) {
            *self.0.borrow_mut() |= reached.bytes > 0;
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let missing = claim(folder.path().join("none"), None);
    let known = file(folder.path(), "known", b"abc");
    // Nobody lives to see its end.
    let endless = file(folder.path(), "endless", b"");
    File::options().write(true).open(&endless.path).unwrap().set_len(1 << 42).unwrap();
    let mut cache = Cache::default();
    cache.keep(stamp(&known), digest(Algorithm::Sha256, b"abc"));
    let claims = [endless, missing];
    for how in [How::Full, How::Afresh] {
        let progress = Begun(RefCell::new(false));
        let halted = || if *progress.0.borrow() { Err(Failure::interrupted(2)) } else { Ok(()) };
        let examined = examine_unless(&halted, &claims, how, &cache, 2, &progress);
        assert_eq!(examined.ended.unwrap_err().interrupted_by(), Some(2));
        assert_eq!(examined.verdicts, [claims[1].verdict(Finding::MissingRequired)]);
        assert_eq!(examined.cache, cache);
    }
}

#[test]
fn progress_goes_up_and_ends_with_all_of_it() {
    #[derive(Default)]
    struct Seen(RefCell<Vec<Reached>>);
    impl Progress for Seen {
        fn take(&self, reached: &Reached) {
            self.0.borrow_mut().push(*reached);
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let claims: Vec<Claim> =
        (1..=30).map(|n| file(folder.path(), &n.to_string(), &vec![b'x'; n * 100_000])).collect();
    let seen = Seen::default();
    let examined = examine_unless(&|| Ok(()), &claims, How::Full, &Cache::default(), 2, &seen);
    assert_eq!(examined.verdicts.iter().map(|verdict| verdict.bytes_read).sum::<u64>(), 46_500_000);
    let seen = seen.0.into_inner();
    assert!(seen.is_sorted_by(|one, other| one.bytes <= other.bytes && one.files <= other.files));
    let last = seen.last().unwrap();
    assert_eq!((last.files, last.of_files), (30, 30));
    assert_eq!((last.bytes, last.of_bytes), (46_500_000, 46_500_000));
}

#[test]
fn rw_6_2d_nothing_of_what_is_examined_is_changed() {
    let folder = tempfile::tempdir().unwrap();
    let odd = folder.path().join(OsStr::from_bytes(b"odd \xff\n name"));
    fs::write(&odd, "abc").unwrap();
    std::os::unix::fs::symlink("none", folder.path().join("link")).unwrap();
    let right = file(folder.path(), "right", b"abc");
    let wrong = Claim { digest: right.digest.clone(), ..file(folder.path(), "wrong", b"") };
    let before = Scan::digests().of(folder.path()).unwrap();
    let link = claim(folder.path().join("link"), None);
    let claims = [claim(odd, right.digest.clone()), right, wrong, link];
    let examined = full(&claims, &Cache::default());
    let words: Vec<&str> = findings(&examined).iter().map(|finding| finding.word()).collect();
    assert_eq!(words, ["verified", "verified", "digest-mismatch", "unreadable"]);
    assert_eq!(Scan::digests().of(folder.path()).unwrap(), before);
}
