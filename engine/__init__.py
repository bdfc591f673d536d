"""The rules of stock, pure and synchronous: time and ids arrive as arguments."""
