//! The users whose processes listen at an address of this machine, by what Linux tells in
//! `/proc/net/tcp` and `/proc/net/tcp6` (proc(5)).

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The state of a socket that listens.
const LISTEN: &str = "0A";

/// The users whose sockets take connections to an address; `None` where the system does not tell.
pub(super) fn of_listeners(address: SocketAddr) -> Option<Vec<u32>> {
    let mut users = in_table(&fs::read_to_string("/proc/self/net/tcp").ok()?, address);
    // Absent where IPv6 is switched off.
    if let Ok(table) = fs::read_to_string("/proc/self/net/tcp6") {
        users.extend(in_table(&table, address));
    }
    Some(users)
}

fn in_table(table: &str, address: SocketAddr) -> Vec<u32> {
    let listens = |line: &str| {
        let mut fields = line.split_whitespace().skip(1);
        let (local, state) = (fields.next()?, fields.nth(1)?);
        let user = fields.nth(3)?.parse().ok()?;
        (state == LISTEN && takes(local, address)?).then_some(user)
    };
    table.lines().filter_map(listens).collect()
}

/// Whether a socket at `local`, as the kernel writes it, takes connections to an address.
fn takes(local: &str, address: SocketAddr) -> Option<bool> {
    let (ip, port) = local.split_once(':')?;
    // Words of 32 bits, each in the byte order of the machine.
    let word = |at: usize| u32::from_str_radix(ip.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    let is_reached = if ip.len() == 8 {
        let ip = Ipv4Addr::from(word(0)?);
        address.is_ipv4() && (ip.is_unspecified() || ip == address.ip())
    } else {
        let mut bytes = [0; 16];
        for (index, part) in bytes.chunks_exact_mut(4).enumerate() {
            part.copy_from_slice(&word(8 * index)?);
        }
        let ip = Ipv6Addr::from(bytes);
        // A socket that listens on all addresses of IPv6 may take those of IPv4 too.
        ip.is_unspecified() || IpAddr::from(ip).to_canonical() == address.ip()
    };
    Some(is_reached && u16::from_str_radix(port, 16).ok()? == address.port())
}

/// Whether a file belongs to a user, or to the user's first group while that may read it.
pub(super) fn is_of(file: &Path, user: u32) -> bool {
    const GROUP_MAY_READ: u32 = 0o040;
    let Ok(found) = fs::metadata(file) else { return false };
    let has_its_group = || {
        let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
        group_in(&users, user) == Some(found.gid())
    };
    found.uid() == user || (found.mode() & GROUP_MAY_READ != 0 && has_its_group())
}

/// The first group of a user (passwd(5)).
fn group_in(users: &str, user: u32) -> Option<u32> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':').skip(2);
        let id: u32 = fields.next()?.parse().ok()?;
        (id == user).then(|| fields.next()?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  4711        0 1 1 0 100 0 0 10 0
   1: 00000000:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 2 1 0 100 0 0 10 0
   2: 0100007F:1F92 0100007F:A000 01 00000000:00000000 00:00000000 00000000  1000        0 3 1 0 100 0 0 10 0
   3: 00000000000000000000000000000000:1F93 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000  1001        0 4 1 0 100 0 0 10 0
   4: 00000000000000000000000001000000:1F94 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000  1002        0 5 1 0 100 0 0 10 0
   5: nonsense";

    #[test]
    #[cfg(target_endian = "little")]
    fn the_kernels_table_tells_who_listens() {
        let users = |address: &str| in_table(TABLE, address.parse().expect("an address"));
        assert_eq!(users("127.0.0.1:8080"), [4711]);
        assert_eq!(users("127.0.0.2:8080"), [0; 0], "another address");
        assert_eq!(users("127.0.0.2:8081"), [0], "all addresses");
        assert_eq!(users("127.0.0.1:8082"), [0; 0], "connected and does not listen");
        assert_eq!((users("127.0.0.1:8083"), users("[::1]:8083")), (vec![1001], vec![1001]));
        assert_eq!((users("127.0.0.1:8084"), users("[::1]:8084")), (vec![], vec![1002]));
    }

    #[test]
    fn the_first_group_of_a_user_is_in_passwd() {
        let users = "root:x:0:0:root:/root:/bin/sh\nbroken\nservice:x:998:997::/:/bin/false\n";
        assert_eq!(
            (group_in(users, 998), group_in(users, 0), group_in(users, 1)),
            (Some(997), Some(0), None)
        );
    }
}
