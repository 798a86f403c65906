"""What launchers share that start processes: how these and the caller speak (`channel`), what a process does (`worker`), what the caller
makes of what it hears (`watching`), and processes on several machines (`cluster`)."""
