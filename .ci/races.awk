# Prints the reports of ThreadSanitizer in which both accesses come from the library: the first
# frame of each that is in the project is in src/. Not those of a thread's stack: another thread gets
# at one by a scope only, whose end isn't seen (the tests lend their claims to such threads).
/^WARNING: ThreadSanitizer/ { report = ""; inside = 0; stacks = 0; ours = 0; lent = 0 }
/^  Location is stack of thread/ { lent = 1 }
{ report = report $0 "\n" }
/^  (Previous )?[A-Za-z ]*[rR]ead of size|^  (Previous )?[A-Za-z ]*[wW]rite of size/ { stack = 1; found = 0; stacks++ }
/^$/ { stack = 0 }
stack && !found && index($0, root) { found = 1; if (index($0, root "src/")) ours++ }
/^SUMMARY: ThreadSanitizer/ { total++; if ($0 !~ /data race/ || (ours == 2 && !lent)) { bad++; printf "%s", report } }
END { printf "%d reports, %d between two places of the library\n", total, bad; exit bad > 0 }
