// What plugin_test loads.
extern "C" {
#ifdef OTHER_SOURCES
__attribute__((visibility("default"))) const char* FairwayPluginSources() { return OTHER_SOURCES; }
#endif
__attribute__((visibility("default"))) int FairwayTestAnswer() { return 42; }
}
