#!/bin/sh
# netns.sh: settings of a workload's network namespace, run inside it (nsenter --net) before its link is up.
assign() { [ ! -e "/proc/sys/net/$1" ] || echo "$2" >"/proc/sys/net/$1"; }
# The address has moved here on purpose: no duplicate address detection, which would leave it tentative for a second.
assign ipv6/conf/eth0/accept_dad 0
assign ipv6/conf/eth0/dad_transmits 0
assign ipv4/conf/eth0/arp_notify 1
# What a restored workload says before its link is up asks for its peers' addresses in vain. By default the next question
# follows a second later, and everything to that peer waits for it (measured: a client's gap of 1.4 s for a blackout of
# 0.4 s). So ask often, for as long in all as by default (3 s).
for family in ipv4 ipv6; do
  assign $family/neigh/eth0/retrans_time_ms 20
  assign $family/neigh/eth0/mcast_solicit 150
done
# Nothing else lives in this namespace: low ports need no privilege.
assign ipv4/ip_unprivileged_port_start 0
exit 0
