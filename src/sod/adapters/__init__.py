"""SOD in other trainers. Each module is named after its trainer."""
