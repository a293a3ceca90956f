//! Finding the serial port that leads to the host.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use banger_model::LINK_PORT_NAME;
use thiserror::Error;

use crate::files::read_line;
use crate::uevent;

/// The kernel's directory of serial ports.
const CLASS: &str = "/sys/class/virtio-ports";

/// How long the port may take to appear: its name comes from the host after its driver starts.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Most ports looked at.
const MAX_PORTS: usize = 64;

/// Why there is no way to the host.
#[derive(Debug, Error)]
pub(crate) enum LinkPortError {
    #[error("cannot look for the serial port {LINK_PORT_NAME}")]
    Look(#[source] io::Error),
    #[error("the machine has no serial port {LINK_PORT_NAME}")]
    None,
    #[error("cannot open {}", path.display())]
    Open {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Opens the port, waiting for it if it is not there yet.
///
/// # Errors
/// [`LinkPortError`].
pub(crate) fn open() -> Result<OwnedFd, LinkPortError> {
    let name = uevent::wait_for(TIMEOUT, || find(Path::new(CLASS)))
        .map_err(LinkPortError::Look)?
        .ok_or(LinkPortError::None)?;
    let path = Path::new("/dev").join(name);
    let port =
        fs::OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(&path);
    port.map(OwnedFd::from).map_err(|source| LinkPortError::Open { path, source })
}

/// The device of the port, if it has come and has been named.
fn find(class: &Path) -> io::Result<Option<String>> {
    let ports = match fs::read_dir(class) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    for port in ports.take(MAX_PORTS) {
        let port = port?;
        if read_line(&port.path().join("name")).is_ok_and(|name| name == LINK_PORT_NAME) {
            return Ok(port.file_name().into_string().ok());
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn the_port_is_known_by_its_name() {
        let class = tempfile::tempdir().unwrap();
        assert_eq!(find(&class.path().join("absent")).unwrap(), None);
        for (port, name) in [("vport1p1", Some("org.other")), ("vport3p2", None)] {
            fs::create_dir(class.path().join(port)).unwrap();
            if let Some(name) = name {
                let mut file = fs::File::create(class.path().join(port).join("name")).unwrap();
                writeln!(file, "{name}").unwrap();
            }
        }
        assert_eq!(find(class.path()).unwrap(), None);
        let mut file = fs::File::create(class.path().join("vport3p2/name")).unwrap();
        writeln!(file, "{LINK_PORT_NAME}").unwrap();
        assert_eq!(find(class.path()).unwrap().as_deref(), Some("vport3p2"));
    }
}
