#!/bin/sh
# The guest's hook for re-IP: give each NIC the address that the recovery site has chosen for it.
#
# Run it once at boot, as root, after the drivers virtio_net and qemu_fw_cfg are there and before services start, for
# example from a oneshot unit before network-online.target. Needs sh, ip and cat; udhcpc or dhclient for DHCP.
# A VM that is not being recovered elsewhere finds nothing here, and its own configuration stays.
#
# Each line it reads: MAC ADDRESS/PREFIX|dhcp GATEWAY|- DNS,DNS|-
set -eu
conf=${DRSIM_NICS:-/sys/firmware/qemu_fw_cfg/by_name/opt/drsim/nics.conf/raw}
resolv=${DRSIM_RESOLV:-/etc/resolv.conf}
[ -r "$conf" ] || exit 0

device_of() {
    for each in /sys/class/net/*; do
        [ "$(cat "$each/address" 2>/dev/null)" = "$1" ] && { echo "${each##*/}"; return 0; }
    done
    return 1
}

failed=0
while read -r mac address gateway dns; do
    device=$(device_of "$mac") || { echo "drsim: no NIC has the address $mac" >&2; failed=1; continue; }
    ip addr flush dev "$device"
    ip link set "$device" up
    if [ "$address" = dhcp ]; then
        if command -v udhcpc >/dev/null; then udhcpc -i "$device" -n -q; else dhclient -1 "$device"; fi || failed=1
    else
        ip addr add "$address" dev "$device"
        [ "$gateway" = - ] || ip route replace default via "$gateway" dev "$device"
    fi
    if [ "$dns" != - ]; then
        : >"$resolv"
        for server in $(echo "$dns" | tr , ' '); do echo "nameserver $server" >>"$resolv"; done
    fi
    echo "drsim: $device has $address now"
done <"$conf"
exit $failed
