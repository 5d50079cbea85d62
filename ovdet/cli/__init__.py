"""The console command `ovdet`: main.py has the table of commands, one light module each."""
