//! Commands in messages: what people paste into a shell does what it says, whatever their folders
//! are called.

use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A path as a word of a shell's command line, quoted where it must be: one line, and text,
/// whatever bytes it has.
pub fn quoted(path: &Path) -> String {
    // A word that begins with a dash would be taken for a flag.
    let dashed = path.as_os_str().as_bytes().starts_with(b"-");
    let own = Path::new(".").join(path);
    let path = if dashed { &own } else { path };
    let text = path
        .to_str()
        .filter(|text| !text.contains(char::is_control));
    match text.and_then(|text| shlex::try_quote(text).ok()) {
        Some(quoted) => quoted.into_owned(),
        None => escaped(path.as_os_str().as_bytes()),
    }
}

/// In the notation of bash, ksh and zsh for what cannot be typed.
fn escaped(bytes: &[u8]) -> String {
    let mut word = String::from("$'");
    for &byte in bytes {
        match byte {
            b'\'' | b'\\' => word.extend(['\\', char::from(byte)]),
            b' '..=b'~' => word.push(char::from(byte)),
            // Octal, which ends after three digits. Writing to a string does not fail.
            _ => _ = write!(word, "\\{byte:03o}"),
        }
    }
    word + "'"
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::process::Command;

    #[test]
    fn a_shell_reads_every_path_as_it_is() {
        assert_eq!(quoted(Path::new("replays/0001")), "replays/0001");
        let names: [&[u8]; 9] = [
            b"c 20/my run",
            b"it's",
            b"$HOME `id` \"x\" \\",
            b"~/x;y&z|*",
            b"a\nb\tc",
            b"latin \xe9'\\1",
            "\u{fc}ber 5\u{20ac}".as_bytes(),
            b"a{b,c}!d#e",
            b"plain",
        ];
        for name in names {
            let word = quoted(Path::new(OsStr::from_bytes(name)));
            assert!(!word.contains(char::is_control), "{word:?}");
            let read = Command::new("bash")
                .args(["-c", &format!("printf %s {word}")])
                .output()
                .unwrap();
            assert_eq!(read.stdout, name, "{word}");
        }
        assert_eq!(quoted(Path::new("-x y")), "'./-x y'");
    }
}
