//! A TPM 2.0 in software (swtpm) and the few commands that attestation needs, TPM 2.0 Library Part 3.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

const RH_OWNER: u32 = 0x4000_0001;
const RH_NULL: u32 = 0x4000_0007;
/// TPM_RC_RETRY: the TPM could not begin, such as in the midst of its self-test; the command is to be sent again.
const RC_RETRY: u32 = 0x922;
/// A password session with an empty password.
const EMPTY_PASSWORD: [u8; 9] = [0x40, 0, 0, 9, 0, 0, 0, 0, 0];

/// A running TPM; ends with this value.
pub struct Swtpm {
    process: Child,
    stream: UnixStream,
    _state: TempDir,
}

/// A key in the TPM.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub handle: u32,
    /// TPMT_PUBLIC.
    pub public: Vec<u8>,
}

impl Swtpm {
    /// Starts one, new and empty.
    ///
    /// # Panics
    /// If there is no swtpm: `cargo xtask tools` installs it.
    pub fn start() -> Self {
        let state = tempfile::tempdir().unwrap();
        let (stream, theirs) = UnixStream::pair().unwrap();
        // Its end of the connection is descriptor 3, since it takes none below that.
        let process = Command::new("sh")
            .args(["-c", "exec swtpm \"$@\" 3<&0 0</dev/null", "swtpm"])
            .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear", "--tpmstate"])
            .arg(format!("dir={}", state.path().display()))
            .args(["--fd", "3"])
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Self { process, stream, _state: state }
    }

    /// Sends a command with password sessions for its first `authorized` handles, or without any; gives the response's
    /// parameters.
    fn command(&mut self, code: u32, handles: &[u32], authorized: usize, parameters: &[u8]) -> Vec<u8> {
        let mut body = code.to_be_bytes().to_vec();
        body.extend(handles.iter().flat_map(|handle| handle.to_be_bytes()));
        if authorized > 0 {
            let sessions = EMPTY_PASSWORD.repeat(authorized);
            body.extend(u32::try_from(sessions.len()).unwrap().to_be_bytes());
            body.extend(sessions);
        }
        body.extend(parameters);
        let length = u32::try_from(body.len() + 6).unwrap();
        let tag = [0x80, if authorized > 0 { 2 } else { 1 }];
        let command = [&tag[..], &length.to_be_bytes(), &body].concat();
        loop {
            let (code_found, response) = self.exchange(&command);
            if code_found != RC_RETRY {
                assert_eq!(code_found, 0, "command {code:#x} failed");
                return response;
            }
        }
    }

    /// Gives the response code and what follows the response's header.
    fn exchange(&mut self, command: &[u8]) -> (u32, Vec<u8>) {
        drop(self.stream.write_all(command));
        let mut header = [0; 10];
        let read = self.stream.read_exact(&mut header);
        read.expect("the program swtpm is needed: cargo xtask tools installs it");
        let word = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().unwrap());
        let mut rest = vec![0; usize::try_from(word(2)).unwrap() - header.len()];
        self.stream.read_exact(&mut rest).unwrap();
        (word(6), rest)
    }

    /// TPM2_CreatePrimary below the owner's seed: a key of this TPMT_PUBLIC template.
    pub fn create(&mut self, template: &[u8]) -> Loaded {
        let parameters = [&[0, 4, 0, 0, 0, 0][..], &sized(template), &[0, 0], &[0, 0, 0, 0]].concat();
        let response = self.command(0x131, &[RH_OWNER], 1, &parameters);
        let handle = u32::from_be_bytes(response[..4].try_into().unwrap());
        let (public, _) = take(&response[8..]);
        Loaded { handle, public: public.to_vec() }
    }

    /// TPM2_FlushContext: forgets a key, of which a TPM holds three at a time.
    pub fn flush(&mut self, key: &Loaded) {
        self.command(0x165, &[key.handle], 0, &[]);
    }

    /// TPM2_Certify: TPMS_ATTEST and TPMT_SIGNATURE.
    pub fn certify(&mut self, key: &Loaded, by: &Loaded, data: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let parameters = [&sized(data)[..], &[0, 0x10]].concat();
        let response = self.command(0x148, &[key.handle, by.handle], 2, &parameters);
        let length = usize::try_from(u32::from_be_bytes(response[..4].try_into().unwrap())).unwrap();
        let (attest, signature) = take(&response[4..4 + length]);
        (attest.to_vec(), signature.to_vec())
    }

    /// TPM2_Sign of a digest by the key's own scheme: TPMT_SIGNATURE.
    pub fn sign(&mut self, key: &Loaded, digest: &[u8]) -> Vec<u8> {
        let ticket = [&[0x80, 0x24][..], &RH_NULL.to_be_bytes(), &[0, 0]].concat();
        let parameters = [&sized(digest)[..], &[0, 0x10], &ticket].concat();
        let response = self.command(0x15d, &[key.handle], 1, &parameters);
        let length = usize::try_from(u32::from_be_bytes(response[..4].try_into().unwrap())).unwrap();
        response[4..4 + length].to_vec()
    }
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// A TPM2B.
pub fn sized(octets: &[u8]) -> Vec<u8> {
    [&u16::try_from(octets.len()).unwrap().to_be_bytes()[..], octets].concat()
}

/// The content of a TPM2B, and what follows.
pub fn take(octets: &[u8]) -> (&[u8], &[u8]) {
    let length = usize::from(u16::from_be_bytes(octets[..2].try_into().unwrap()));
    octets[2..].split_at(length)
}
