"""The command: up, feed, check-config, plan, ... (what testrun.sh calls)."""
