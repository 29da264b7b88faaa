#pragma once

// Nothing of it is needed, see distributed/README.md.
