#!/bin/sh
# reap.sh: pid 1 of a lab namespace where there is no tini. `wait` reaps every child that falls to us, known or not.
while :; do
  sleep 3600 &
  wait $!
done
