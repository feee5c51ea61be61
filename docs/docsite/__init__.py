"""What makes the site: blocks of commands, their recorded output, generated pages, pictures. Not shipped."""
