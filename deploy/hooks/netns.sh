#!/bin/sh
# netns.sh: settings of a workload's network namespace, run inside it (nsenter --net) before its link is up.
assign() { [ ! -e "/proc/sys/net/$1" ] || echo "$2" >"/proc/sys/net/$1"; }
# The address has moved here on purpose: no duplicate address detection, which would leave it tentative for a second.
assign ipv6/conf/eth0/accept_dad 0
assign ipv6/conf/eth0/dad_transmits 0
assign ipv4/conf/eth0/arp_notify 1
# Nothing else lives in this namespace: low ports need no privilege.
assign ipv4/ip_unprivileged_port_start 0
exit 0
